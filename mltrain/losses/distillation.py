"""Knowledge distillation for sigmoids: the divergence of a student's probabilities from a teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def sigmoid_kl(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(p || q) of each entry, fp32, with p = sigmoid(teacher / T) and q = sigmoid(student / T).

    KL(p || q) = p log(p / q) + (1 - p) log((1 - p) / (1 - q)): each class is a distribution over present and absent, as
    in Yang et al., Multi-Label Knowledge Distillation, arXiv 2308.06453, section 3.2. T^2 keeps the size of the
    gradients at every temperature (Hinton et al., arXiv 1503.02531, section 2.1).

    Args:
        logits, teacher_logits: (B, C), any float dtype; no gradient flows to the teacher's.
        temperature: T > 0; higher ones weigh small probabilities more.
    """
    student, teacher = logits.float() / temperature, teacher_logits.detach().float() / temperature
    p = teacher.sigmoid()
    present = p * (F.logsigmoid(teacher) - F.logsigmoid(student))
    absent = (1 - p) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (present + absent)
