import torch
from torchvision.ops import nms

from model.boxes.nms import nms_per_image


def test_nms_of_a_batch_equals_nms_of_each_image_and_group():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(400, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + 10 + torch.rand(400, 2, generator=generator) * 30), 1)
    scores = torch.rand(400, generator=generator)
    images = torch.randint(0, 3, (400,), generator=generator)
    groups = torch.randint(0, 4, (400,), generator=generator)
    scores[:20] = -torch.inf
    kept, counts = nms_per_image(boxes, scores, images, groups, 4, 0.5, max_detections=25)
    assert counts[3] == 0  # an image without boxes
    for image, result in enumerate(torch.split(kept, counts)):
        expected = []
        for group in range(4):
            members = ((images == image) & (groups == group) & scores.isfinite()).nonzero()[:, 0]
            expected.append(members[nms(boxes[members], scores[members], 0.5)])
        survivors = torch.cat(expected)
        best = survivors[scores[survivors].argsort(descending=True)][:25]
        assert result.tolist() == best.tolist()
