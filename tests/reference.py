"""The paper's equations as docs/equations.md reads them, a naive float64 function each: loops and dense matrices.

Nothing here comes from graphcorrect.

Everything is one image: features (N, D), probabilities (N, C), labels (N,). A batch is a Python list of images.
Functions are differentiable where a gradient is to be compared; nothing is written in place once it carries one.
"""

import math

import torch

IGNORE = 255


def unit(rows):
    """Rows divided by their length; a zero row stays zero, with a zero gradient."""
    return torch.stack([row / row.norm() if row.norm() > 0 else row * 0 for row in rows]) if len(rows) else rows


def neighbors(features, num_neighbors, self_loops=False):
    """N(i) of Eq. 4: a full sort of the cosines of row i, i itself left out unless self-loops are kept."""
    cosine = (unit(features) @ unit(features).T).detach()
    chosen = []
    for i in range(len(features)):
        others = [j for j in range(len(features)) if j != i or self_loops]
        chosen.append(sorted(others, key=lambda j: -cosine[i, j].item())[:num_neighbors])
    return chosen


def eq4_affinity(features, num_neighbors, gamma=1.0, self_loops=False):
    """Eq. 4: weight max(0, cos)^gamma from i to each of its most similar nodes, 0 to the others; (N, N), directed."""
    cosine = unit(features) @ unit(features).T
    selected = torch.zeros(cosine.shape, dtype=torch.bool)
    for i, js in enumerate(neighbors(features, num_neighbors, self_loops)):
        selected[i, js] = True
    selected = selected & (cosine > 0)
    return torch.where(selected, torch.where(selected, cosine, 1.0) ** gamma, 0.0)


def normalize_both_sides(weights):
    """D^-1/2 W D^-1/2 with D the row sums of W; a row that sums to zero stays zero."""
    degree = weights.sum(1)
    scale = torch.where(degree > 0, torch.where(degree > 0, degree, 1.0) ** -0.5, 0.0)
    return scale[:, None] * weights * scale[None, :]


def eq5_semantic_graph(features, num_neighbors, gamma=1.0, self_loops=False):
    """Eq. 5: A, the symmetrised and normalised graph of Eq. 4."""
    directed = eq4_affinity(features, num_neighbors, gamma, self_loops)
    return normalize_both_sides(directed + directed.T)


def eq6_class_weights(probabilities, labels=None):
    """Eq. 6: p_i . p_j between nodes predicted alike, 1 on the diagonal, 0 elsewhere."""
    labels = probabilities.argmax(1) if labels is None else labels
    rows = []
    for i in range(len(probabilities)):
        row = []
        for j in range(len(probabilities)):
            alike = probabilities[i] @ probabilities[j] if labels[i] == labels[j] else probabilities.new_zeros(())
            row.append(probabilities.new_ones(()) if i == j else alike)
        rows.append(torch.stack(row))
    return torch.stack(rows) if rows else probabilities.new_zeros(0, 0)


def eq7_class_graph(probabilities, labels=None):
    """Eq. 7: W, the class weights of Eq. 6 normalised by the square roots of their row sums."""
    return normalize_both_sides(eq6_class_weights(probabilities, labels))


def propagate(graph, values, alpha=1.0):
    """(1 - alpha) v + alpha A v, where a node without edges keeps its value (Eq. 5, reading of degree 0)."""
    moved = graph @ values
    isolated = (graph.abs().sum(1) == 0)[:, None]
    return torch.where(isolated, values, (1 - alpha) * values + alpha * moved)


def eq8_corrected(graph, probabilities):
    """Eq. 8 at initialisation: A p brought back to the simplex; a node without edges keeps p."""
    moved = propagate(graph, probabilities)
    return moved / moved.sum(1, keepdim=True)


def eq9_thresholds(probabilities, sigma=0.95):
    """Eq. 9: sigma times the count of confident nodes of a class over the largest such count; (C,)."""
    num_classes = probabilities.shape[-1]
    count = [0] * num_classes
    for p in probabilities.reshape(-1, num_classes):
        if p.max() > sigma:
            count[int(p.argmax())] += 1
    most = max(count)
    return torch.tensor([sigma * c / most if most else sigma for c in count], dtype=torch.float64)


def eq10_confident(head, thresholds):
    """Eq. 10: a node is confident where the input head's largest probability reaches its class's threshold."""
    return torch.tensor([bool(p.max() >= thresholds[p.argmax()]) for p in head], dtype=torch.bool)


def eq10_mix(probabilities, corrected, confident, alpha=0.2):
    """Eq. 10: confident nodes take alpha of the correction, the others 1 - alpha."""
    share = torch.tensor([alpha if c else 1 - alpha for c in confident], dtype=torch.float64)[:, None]
    return share * corrected + (1 - share) * probabilities


def eq11_features(graph, features):
    """Eq. 11 at initialisation: an even mix of x and W x, every row of unit length."""
    x = unit(features)
    return unit(x + unit(graph @ x))


def eq12_pair_term(features, labels):
    """Eq. 12, first term, one image: squared error of v_i . v_j against 'same label', mean over ordered pairs."""
    v = unit(features)
    kept = [i for i in range(len(v)) if labels[i] != IGNORE]
    terms = [(v[i] @ v[j] - (1.0 if labels[i] == labels[j] else 0.0)) ** 2 for i in kept for j in kept]
    return sum(terms) / len(terms)


def eq12_prototype_term(features, labels, prototypes, known=None, temperature=0.1):
    """Eq. 12, second term: cross entropy of cosines to the known prototypes over tau, mean over labelled nodes."""
    v, prototypes = unit(features), unit(prototypes)
    classes = [c for c in range(len(prototypes)) if known is None or known[c]]
    terms = []
    for i in range(len(v)):
        if int(labels[i]) in classes:
            scores = torch.stack([v[i] @ prototypes[c] / temperature for c in classes])
            terms.append(torch.logsumexp(scores, 0) - scores[classes.index(int(labels[i]))])
    return sum(terms) / len(terms) if terms else features.sum() * 0


def eq12_slg(images, labels, prototypes=None, known=None, balance=0.5, temperature=0.1):
    """Eq. 12: balance * pair term (mean over labelled images) + (1 - balance) * prototype term (mean over nodes)."""
    pairs = [eq12_pair_term(x, y) for x, y in zip(images, labels, strict=True) if (y != IGNORE).any()]
    loss = balance * sum(pairs) / len(pairs) if pairs else sum(x.sum() for x in images) * 0
    if prototypes is None:
        return loss
    second = eq12_prototype_term(torch.cat(list(images)), torch.cat(list(labels)), prototypes, known, temperature)
    return loss + (1 - balance) * second


def eq13_class_means(features, labels, num_classes):
    """Eq. 13: mean feature, as given, of each class's nodes; a class without nodes is None."""
    means = []
    for c in range(num_classes):
        rows = [features[i] for i in range(len(features)) if labels[i] == c]
        means.append(sum(rows) / len(rows) if rows else None)
    return means


def eq14_moving_average(old, means, momentum=0.99):
    """Eq. 14: m * old + (1 - m) * new; the first sight of a class (old None) starts it, an absent class keeps."""
    new = []
    for before, mean in zip(old, means, strict=True):
        if mean is None:
            new.append(before)
        else:
            new.append(mean if before is None else momentum * before + (1 - momentum) * mean)
    return new


def eq15_clg(probabilities, labels, self_weighted=True):
    """Eqs. 15, 16: mean over unignored nodes of -w_i log p_i[y_i], with w_i = p_i[y_i] held constant."""
    terms = []
    for p, y in zip(probabilities, labels, strict=True):
        if y != IGNORE:
            weight = p[y].detach() if self_weighted else torch.ones_like(p[y])
            terms.append(-torch.xlogy(weight, p[y]))  # w log w is 0 at w = 0
    return sum(terms) / len(terms) if terms else probabilities.sum() * 0


def eq16_pseudo_labels(rounds):
    """Eq. 16: argmax of the sum of the refined rounds' probabilities, the input head (round 0) left out."""
    return sum(rounds[1:]).argmax(1)


def eq17_total(probabilities, features, labels, prototypes=None, known=None, slg_weight=0.1, clg_weight=1.0, **slg):
    """Eq. 17: label loss over rounds 0..K and feature loss over rounds 1..K, weighted and added; lists of images."""
    total = 0.0
    for p in probabilities:
        total = total + clg_weight * eq15_clg(torch.cat(list(p)), torch.cat(list(labels)))
    for k, x in enumerate(features[1:]):
        bank = (None, None) if prototypes is None else (prototypes[k], None if known is None else known[k])
        total = total + slg_weight * eq12_slg(x, labels, *bank, **slg)
    return total


def anchor_posterior(features, keys, key_labels, num_classes, num_neighbors=20, temperature=0.05):
    """r_c: softmax votes of the nearest anchors, each divided by its class's number of anchors, summing to one."""
    cosine = unit(features) @ unit(keys).T
    per_class = [int((key_labels == c).sum()) for c in range(num_classes)]
    posterior = torch.zeros(len(features), num_classes, dtype=torch.float64)
    for i in range(len(features)):
        nearest = sorted(range(len(keys)), key=lambda j: -cosine[i, j].item())[:num_neighbors]
        votes = [math.exp((cosine[i, j].item() - 1) / temperature) for j in nearest]
        for vote, j in zip(votes, nearest, strict=True):
            posterior[i, key_labels[j]] += vote / sum(votes) / per_class[int(key_labels[j])]
        posterior[i] /= posterior[i].sum()
    return posterior


def anchor_corrected(probabilities, posterior, strength=1.0, eps=0.1):
    """p (r + eps)^b, normalised: what the anchors make of the input probabilities before round 1."""
    weighted = probabilities * (posterior + eps) ** strength
    return weighted / weighted.sum(1, keepdim=True)


def algorithm1(
    features, logits, num_rounds=2, num_neighbors=20, gamma=1.0, alpha=0.2, sigma=0.95, order="class_first",
    posterior=None, differentiable=False,
):  # fmt: skip
    """Algorithm 1 at initialisation on a list of images: probabilities and features of rounds 0..K, lists of images.

    Thresholds are taken once, from the input head and over all the images; the graphs carry no gradient by default.
    """

    def semantic(x):
        return eq5_semantic_graph(x if differentiable else x.detach(), num_neighbors, gamma)

    def by_class(p):
        return eq7_class_graph(p if differentiable else p.detach())

    head = [z.softmax(1) for z in logits]
    thresholds = eq9_thresholds(torch.cat(head), sigma)
    confident = [eq10_confident(p, thresholds) for p in head]
    p = head if posterior is None else [anchor_corrected(q, r) for q, r in zip(head, posterior, strict=True)]
    x = list(features)
    rounds_p, rounds_x = [head], [list(features)]
    for _ in range(num_rounds):
        next_p, next_x = [], []
        for p_i, x_i, sure in zip(p, x, confident, strict=True):
            if order == "class_first":
                new_p = eq10_mix(p_i, eq8_corrected(semantic(x_i), p_i), sure, alpha)
                new_x = eq11_features(by_class(new_p), x_i)
            elif order == "semantic_first":
                new_x = eq11_features(by_class(p_i), x_i)
                new_p = eq10_mix(p_i, eq8_corrected(semantic(new_x), p_i), sure, alpha)
            else:  # simultaneous
                new_p = eq10_mix(p_i, eq8_corrected(semantic(x_i), p_i), sure, alpha)
                new_x = eq11_features(by_class(p_i), x_i)
            next_p.append(new_p)
            next_x.append(new_x)
        p, x = next_p, next_x
        rounds_p.append(p)
        rounds_x.append(x)
    return rounds_p, rounds_x


def algorithm1_released(features, logits, num_rounds=2, num_neighbors=20, alpha=0.2, sigma=0.95):
    """Algorithm 1 as the authors' code runs it, at initialisation on one image: logits (up to a constant a node) and
    features as they are, self-loops, cosine class weights, no confident node counted yet; rounds 0..K of both.
    """
    values, x = logits.log_softmax(1), features
    confident = eq10_confident(values.exp(), torch.full((logits.shape[1],), sigma))
    share = torch.tensor([alpha if sure else 1 - alpha for sure in confident], dtype=torch.float64)[:, None]
    rounds_p, rounds_x = [values.exp()], [x]
    for _ in range(num_rounds):
        values = propagate(eq5_semantic_graph(x, num_neighbors, self_loops=True), values, share)
        p = values.softmax(1)
        x = eq7_class_graph(unit(p), p.argmax(1)) @ x
        rounds_p.append(p)
        rounds_x.append(x)
    return rounds_p, rounds_x


def iou_per_class(predictions, labels, num_classes):
    """Intersection over union of each class over the unignored pixels; None where a class is nowhere."""
    result = []
    for c in range(num_classes):
        both = either = 0
        for guess, truth in zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True):
            if truth != IGNORE:
                both += guess == c and truth == c
                either += guess == c or truth == c
        result.append(both / either if either else None)
    return result


def mean_iou(predictions, labels, num_classes):
    """The mean of the classes' intersections over unions, over the classes that occur."""
    present = [v for v in iou_per_class(predictions, labels, num_classes) if v is not None]
    return sum(present) / len(present)
