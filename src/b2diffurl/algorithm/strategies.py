"""The schedules, selection rules and advantage rules that a run can name; a new one is one member of its union."""

from typing import get_args

from b2diffurl.algorithm.adaptive import Adaptive
from b2diffurl.algorithm.advantage import Batch, Branch, PromptHistory
from b2diffurl.algorithm.custom import CustomAdvantage, CustomSchedule, CustomSelection
from b2diffurl.algorithm.extremes import Extremes
from b2diffurl.algorithm.forward import Forward
from b2diffurl.algorithm.gap import Gap
from b2diffurl.algorithm.power import Power
from b2diffurl.algorithm.schedule import Backward, Full, Table
from b2diffurl.algorithm.selection import All, BestWorst
from b2diffurl.algorithm.shrunk import Shrunk
from b2diffurl.algorithm.spaced import Spaced

AnySchedule = Backward | Full | Table | Forward | Spaced | Adaptive | CustomSchedule
AnySelection = BestWorst | All | Gap | Power | Extremes | CustomSelection
AnyAdvantage = PromptHistory | Batch | Branch | Shrunk | CustomAdvantage
SCHEDULES: tuple[type[AnySchedule], ...] = get_args(AnySchedule)
SELECTIONS: tuple[type[AnySelection], ...] = get_args(AnySelection)
ADVANTAGES: tuple[type[AnyAdvantage], ...] = get_args(AnyAdvantage)
