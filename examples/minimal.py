"""From a tensor and an encoder to a report: python examples/minimal.py   → runs/minimal/report.html"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import krepes
from krepes.data import ArraySource, GaussianNoise
from krepes.pretrain import TrainConfig, train

output = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/minimal")
samples = torch.tensor(load_digits().data[:800] / 16, dtype=torch.float32)  # (800, 64): yours
views, objective = GaussianNoise(std=0.1), krepes.VICReg()

torch.manual_seed(0)
encoder = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))  # yours, trained; this one in two seconds
train(encoder, ArraySource(samples), views, objective, TrainConfig(epochs=20, batch_size=256))

auditor = krepes.Auditor(encoder.eval(), objective=objective, landmarks=80, newton=krepes.Newton(damping="auto"))
auditor.fit(samples, views=views)

print(f"trust: {auditor.trust_.verdict}. {auditor.trust_.sentence}")  # read this first
print(auditor.outcome_.message)
print(auditor.explain(samples[:2], top_k=3))  # sample, rank, landmark, influence, contribution
influence = auditor.attribute(samples[:2])  # (2, 800): every training sample's part in their local invariance
print(f"sample 0 owes most of its invariance to training sample {int(influence[0].argmax())}")

output.mkdir(parents=True, exist_ok=True)
plan = krepes.AuditPlan(refits=2, automatic_concepts=False)  # quick; the default asks for more
auditor.report(output / "report.html", findings=auditor.findings(plan))
auditor.save(output / "auditor")  # krepes.load(output / "auditor", encoder=encoder)
print(f"report: {output / 'report.html'}")
