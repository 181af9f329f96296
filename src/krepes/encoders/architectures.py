from torch import nn
class MLP(nn.Module): pass
class SmallCNN(nn.Module): pass
