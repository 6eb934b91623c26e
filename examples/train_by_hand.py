"""Train a step by hand: the model of an assistant is a torch module, and its processor writes the batches.

python examples/train_by_hand.py runs/quickstart photo.jpg "What is in the image?" "A red circle."
"""

import sys

import torch

import vistune


def train_step(assistant: vistune.Assistant, optimizer: torch.optim.Optimizer, conversations: list) -> float:
    """Take one step on some conversations, each a list of messages, and return the mean loss before it."""
    model = assistant.model
    batch = vistune.collate([assistant.encode(messages) for messages in conversations]).to(model.head.device)
    loss_sum = vistune.next_token_loss(model(batch), model.head, batch.labels, batch.starts)
    loss = loss_sum.sum / loss_sum.count  # the mean over supervised tokens
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def main(folder: str, image: str, question: str, answer: str) -> None:
    assistant = vistune.load(folder)
    assistant.model.set_trainable(["projector"])  # everything else is frozen
    trainable = [parameter for parameter in assistant.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3)
    parts = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    print(*(f"{train_step(assistant, optimizer, [conversation]):.3f}" for _ in range(3)))


if __name__ == "__main__":
    main(*sys.argv[1:])
