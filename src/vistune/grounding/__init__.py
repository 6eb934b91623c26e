"""What boxes say, in words: facts, questions with exact answers and descriptions, in English and Korean.

boxes -> Scene -> (question, answer) · description
The drawn world asks its test questions from here, the rule teacher writes its dialogues from here.
"""

from vistune.grounding.describe import caption, description
from vistune.grounding.questions import QUESTION_TYPES, ask
from vistune.grounding.reasoning import reason
from vistune.grounding.scene import PLACES, Scene, place_of
from vistune.grounding.wording import QuestionAnswer, brief_cue

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
