"""Write sentences from boxes, and check the claims of sentences against boxes, in English and Korean.

Descriptions, questions with exact answers and reasoning are written from a `Scene`. The drawn world uses them for its
test questions, the rule teacher for its dialogues. `vistune.grounding.claims` checks what a teacher wrote.
"""

from vistune.grounding.describe import caption, description
from vistune.grounding.questions import QUESTION_TYPES, QuestionAnswer, ask, brief_cue
from vistune.grounding.reasoning import reason
from vistune.grounding.scene import PLACES, Scene, place_of

__all__ = [
    "PLACES",
    "QUESTION_TYPES",
    "QuestionAnswer",
    "Scene",
    "ask",
    "brief_cue",
    "caption",
    "description",
    "place_of",
    "reason",
]
