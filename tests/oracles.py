"""One literal function per equation of the paper: slow, obvious, NumPy float64, and ignorant of the package under test.

Modalities are lists of arrays, a mixture is the triple ``(weights, means, covariances)``.
Covariances are variances ``(K, d)`` where diagonal and matrices ``(K, d, d)`` where full.
"""

from itertools import permutations

import numpy as np
import scipy.linalg
import scipy.optimize

# --------------------------------------------------------------------------------------------------------- test inputs


def random_mixture(rng, components, width, covariance="diag", spread=1.0):
    """A mixture (weights, means, covariances) with well-conditioned covariances."""
    weights = rng.dirichlet(np.full(components, 5.0))
    means = spread * rng.normal(size=(components, width))
    if covariance == "diag":
        return weights, means, rng.uniform(0.3, 2.0, size=(components, width))
    factors = rng.normal(size=(components, width, width))
    return weights, means, factors @ factors.transpose(0, 2, 1) / width + 0.3 * np.eye(width)


# ---------------------------------------------------------------------------------------------------------------- Eq 1


def eq1_decoupling(unique, common, masks=None, penalty="signed"):
    """Eq 1, literally: sum over m of the cosine of F_uni and F_com, each (T, d) block read as one vector.

    Mean over the batch; frames under a False mask are zero; a zero vector has cosine 0.
    """
    total = 0.0
    for m in range(len(unique)):
        samples = len(unique[m])
        for n in range(samples):
            dot = square_u = square_c = 0.0
            for t in range(unique[m].shape[1]):
                if masks is not None and not masks[m][n, t]:
                    continue
                for c in range(unique[m].shape[2]):
                    u, v = float(unique[m][n, t, c]), float(common[m][n, t, c])
                    dot, square_u, square_c = dot + u * v, square_u + u * u, square_c + v * v
            cosine = 0.0 if square_u == 0 or square_c == 0 else dot / np.sqrt(square_u) / np.sqrt(square_c)
            total += (cosine if penalty == "signed" else cosine**2) / samples
    return total


# -------------------------------------------------------------------------------------------------------------- Eq 2-4


def as_matrix(covariance):
    """A variance vector as the diagonal matrix that it stands for; a matrix as it is."""
    covariance = np.asarray(covariance, dtype=np.float64)
    return np.diag(covariance) if covariance.ndim == 1 else covariance


def eq4_density(x, mean, covariance):
    """Eq 4, literally: the Gaussian density by the inverse and the determinant."""
    sigma = as_matrix(covariance)
    offset = np.asarray(x, dtype=np.float64) - mean
    exponent = -0.5 * offset @ np.linalg.inv(sigma) @ offset
    return np.exp(exponent) / ((2 * np.pi) ** (len(offset) / 2) * np.linalg.det(sigma) ** 0.5)


def eq3_responsibilities(x, mixture):
    """Eq 3, literally (with x^n in the denominator too): w^n(k) = pi_k N(x^n; k) / sum_j pi_j N(x^n; j)."""
    weights, means, covariances = mixture
    w = np.zeros((len(x), len(weights)))
    for n in range(len(x)):
        for k in range(len(weights)):
            w[n, k] = weights[k] * eq4_density(x[n], means[k], covariances[k])
        w[n] /= w[n].sum()
    return w


def mean_log_likelihood(x, mixture):
    """Mean over n of log sum_k pi_k N(x^n; k)."""
    weights, means, covariances = mixture
    logs = [
        np.log(sum(weights[k] * eq4_density(row, means[k], covariances[k]) for k in range(len(weights)))) for row in x
    ]
    return float(np.mean(logs))


def m_step(x, w, covariance="diag", floor=0.0):
    """M step: weighted means and covariances; variances (full: eigenvalues) below ``floor`` are raised to it.

    An empty component has weight 0 and the mean and the variance of the batch.
    """
    samples, width = x.shape
    weights, means, covariances = [], [], []
    for k in range(w.shape[1]):
        share = w[:, k] if w[:, k].sum() > 0 else np.ones(samples)
        mean = np.zeros(width)
        for n in range(samples):
            mean += share[n] * x[n] / share.sum()
        sigma = np.zeros((width, width))
        for n in range(samples):
            sigma += share[n] * np.outer(x[n] - mean, x[n] - mean) / share.sum()
        if covariance == "diag":
            sigma = np.maximum(np.diag(sigma), floor)
        else:
            values, vectors = np.linalg.eigh(sigma)
            sigma = sum(max(values[i], floor) * np.outer(vectors[:, i], vectors[:, i]) for i in range(width))
        weights.append(w[:, k].sum() / samples)
        means.append(mean)
        covariances.append(sigma)
    return np.array(weights), np.array(means), np.array(covariances)


def em_step(x, mixture, covariance="diag", floor=0.0):
    """One step of expectation maximisation: E (Eq 3), then M."""
    return m_step(x, eq3_responsibilities(x, mixture), covariance, floor)


# -------------------------------------------------------------------------------------------------------------- Eq 5-8


def eq6_pair(mean_p, covariance_p, mean_q, covariance_q):
    """Eq 6, literally: |mu_i - mu_j|^2 + Tr(S_i + S_j - 2 (S_i S_j)^(1/2)) with the matrix square root."""
    sigma_p, sigma_q = as_matrix(covariance_p), as_matrix(covariance_q)
    root = np.real(scipy.linalg.sqrtm(sigma_p @ sigma_q))
    distance = sum((float(a) - float(b)) ** 2 for a, b in zip(mean_p, mean_q, strict=True))
    return distance + np.trace(sigma_p + sigma_q - 2 * root)


def eq6_diagonal(mean_p, variance_p, mean_q, variance_q):
    """Eq 6 for diagonal covariances: sum over c of (mu_c - mu'_c)^2 + s_c + s'_c - 2 sqrt(s_c s'_c)."""
    total = 0.0
    for c in range(len(mean_p)):
        total += (mean_p[c] - mean_q[c]) ** 2 + variance_p[c] + variance_q[c]
        total -= 2 * np.sqrt(variance_p[c] * variance_q[c])
    return total


def eq6_costs(p, q):
    """Eq 6 between every prototype of mixture p and every prototype of mixture q, (K_p, K_q)."""
    pair = eq6_diagonal if np.ndim(p[2]) == 2 else eq6_pair
    costs = np.zeros((len(p[0]), len(q[0])))
    for k in range(len(p[0])):
        for j in range(len(q[0])):
            costs[k, j] = pair(p[1][k], p[2][k], q[1][j], q[2][j])
    return costs


def eq5_joint_cost(measures, sizes, pair_cost):
    """Eq 5, literally: C(k_1, ..., k_M) = sum over i < j of C_ij(k_i, k_j), for every tuple of indices.

    ``pair_cost(measures[i], measures[j])`` is the matrix C_ij. (Eq 5's i = j adds C_ii(k_i, k_i) = 0.)
    """
    count = len(measures)
    pairs = {(i, j): pair_cost(measures[i], measures[j]) for i in range(count) for j in range(i + 1, count)}
    joint = np.zeros(sizes)
    for index in np.ndindex(*sizes):
        for (i, j), costs in pairs.items():
            joint[index] += costs[index[i], index[j]]
    return joint


def eq7_objective(plan, cost, epsilon):
    """Eq 7, literally: sum_k T(k) C(k) + lambda sum_k T(k) log T(k), with 0 log 0 = 0."""
    total = 0.0
    for index in np.ndindex(*cost.shape):
        total += plan[index] * cost[index]
        if plan[index] > 0:
            total += epsilon * plan[index] * np.log(plan[index])
    return float(total)


def eq8_marginal(plan, axis):
    """Eq 8's left side, literally: the sum of T over every index but k_axis."""
    marginal = np.zeros(plan.shape[axis])
    for index in np.ndindex(*plan.shape):
        marginal[index[axis]] += plan[index]
    return marginal


def eq8_error(plan, marginals):
    """The largest violation of Eq 8."""
    return max(np.abs(eq8_marginal(plan, m) - nu).max() for m, nu in enumerate(marginals))


def eq7_plan(cost, marginals, epsilon, iterations=1000):
    """Eq 7-8 solved by exact block ascent on the dual, tuple by tuple, in the log domain.

    T(k) = exp((sum_m f_m(k_m) - C(k)) / lambda); each f_m in turn is set so that its marginal holds, until none moves.
    Returns the plan and the potentials (minus infinity where a marginal is 0).
    """
    potentials = [np.zeros(size) for size in cost.shape]
    for _ in range(iterations):
        before = [f.copy() for f in potentials]
        for m in range(cost.ndim):
            exponents = [[] for _ in range(cost.shape[m])]
            for index in np.ndindex(*cost.shape):
                others = sum(potentials[i][index[i]] for i in range(cost.ndim) if i != m)
                exponents[index[m]].append((others - cost[index]) / epsilon)
            for k in range(cost.shape[m]):
                top = max(exponents[k])
                if marginals[m][k] == 0:
                    potentials[m][k] = -np.inf
                else:
                    mass = sum(np.exp(e - top) for e in exponents[k])
                    potentials[m][k] = epsilon * (np.log(marginals[m][k]) - top - np.log(mass))
        if all(np.allclose(f, g, rtol=0, atol=1e-12 * epsilon) for f, g in zip(potentials, before, strict=True)):
            break
    plan = np.zeros(cost.shape)
    for index in np.ndindex(*cost.shape):
        plan[index] = np.exp((sum(potentials[m][index[m]] for m in range(cost.ndim)) - cost[index]) / epsilon)
    return plan, potentials


def eq8_constraints(shape, marginals):
    """Eq 8 as the rows of a linear system A vec(T) = b."""
    rows, right = [], []
    for m, nu in enumerate(marginals):
        for k in range(shape[m]):
            row = np.zeros(shape)
            for index in np.ndindex(*shape):
                row[index] = 1.0 if index[m] == k else 0.0
            rows.append(row.ravel())
            right.append(nu[k])
    return np.array(rows), np.array(right)


def eq7_plan_by_descent(cost, marginals, epsilon):
    """Eq 7-8 handed to a general constrained minimiser (tiny problems only): no Sinkhorn anywhere."""
    rows, right = eq8_constraints(cost.shape, marginals)
    independent = scipy.linalg.qr(rows.T, pivoting=True)[2][: np.linalg.matrix_rank(rows)]
    rows, right = rows[independent], right[independent]
    start = np.array([np.prod([marginals[m][index[m]] for m in range(cost.ndim)]) for index in np.ndindex(*cost.shape)])
    flat = cost.ravel()
    found = scipy.optimize.minimize(
        lambda t: t @ flat + epsilon * np.sum(t * np.log(t)),
        start,
        jac=lambda t: flat + epsilon * (np.log(t) + 1),
        bounds=[(1e-14, 1.0)] * flat.size,
        constraints={"type": "eq", "fun": lambda t: rows @ t - right, "jac": lambda t: rows},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return found.x.reshape(cost.shape)


def transport_by_linear_programme(cost, marginals):
    """Eq 7-8 at lambda = 0: the value of the linear programme."""
    rows, right = eq8_constraints(cost.shape, marginals)
    return scipy.optimize.linprog(cost.ravel(), A_eq=rows, b_eq=right, bounds=(0, None), method="highs").fun


def official_kernel_sinkhorn(cost, marginals, epsilon=0.1, iterations=50):
    """The official code's recipe in float32, a contrast: exp(-C / lambda) clamped at 1e-30, denominators + 1e-8."""
    kernel = np.maximum(np.exp(-cost.astype(np.float32) / np.float32(epsilon)), np.float32(1e-30))
    scalings = [np.ones(size, dtype=np.float32) for size in cost.shape]

    def scaled():
        plan = kernel.copy()
        for m, u in enumerate(scalings):
            shape = [1] * cost.ndim
            shape[m] = -1
            plan = plan * u.reshape(shape)
        return plan

    for _ in range(iterations):
        for m in range(cost.ndim):
            scalings[m] = np.ones_like(scalings[m])
            others = scaled().sum(axis=tuple(i for i in range(cost.ndim) if i != m))
            scalings[m] = marginals[m].astype(np.float32) / (others + np.float32(1e-8))
    return scaled()


# ---------------------------------------------------------------------------------------------------------------- Eq 9


def eq9_transport(plan, cost):
    """Eq 9's first term, literally: sum_k T*(k) C(k)."""
    return float(sum(plan[index] * cost[index] for index in np.ndindex(*cost.shape)))


def eq9_prototype(features, mixtures):
    """Eq 9's second term: 1/N sum_n sum_k w_i^n(k) |F_i^n - mu_j^k|^2, mean over the ordered pairs i != j."""
    terms = []
    for i, j in permutations(range(len(features)), 2):
        w = eq3_responsibilities(features[i], mixtures[i])
        total = 0.0
        for n in range(len(features[i])):
            for k in range(w.shape[1]):
                offset = features[i][n] - mixtures[j][1][k]
                total += w[n, k] * sum(offset**2)
        terms.append(total / len(features[i]))
    return sum(terms) / len(terms)


# ------------------------------------------------------------------------------------------------------------ Eq 10-12


def skewness(column):
    """Third central moment over the cube of the population standard deviation; 0 where nothing varies."""
    mean = sum(column) / len(column)
    second = sum((v - mean) ** 2 for v in column) / len(column)
    third = sum((v - mean) ** 3 for v in column) / len(column)
    return 0.0 if second == 0 else third / second**1.5


def moments(z):
    """Mean (p,), covariance (p, p) divided by n - 1 (0 at n = 1), skewness (p,)."""
    samples, width = z.shape
    mean = np.array([sum(z[:, c]) / samples for c in range(width)])
    covariance = np.zeros((width, width))
    for n in range(samples if samples > 1 else 0):
        covariance += np.outer(z[n] - mean, z[n] - mean) / (samples - 1)
    return mean, covariance, np.array([skewness(z[:, c]) for c in range(width)])


def eq10_bracket(x, y):
    """The bracket of Eq 10, literally: |mu - mu'|^2 + |Sigma - Sigma'|_F^2 + |Gamma - Gamma'|^2."""
    return float(sum(np.sum((a - b) ** 2) for a, b in zip(moments(x), moments(y), strict=True)))


def eq10_semantic(latents):
    """Eq 10, literally: 1 / (M (M - 1)) times the sum over i < j."""
    count = len(latents)
    total = sum(eq10_bracket(latents[i], latents[j]) for i in range(count) for j in range(i + 1, count))
    return total / (count * (count - 1))


def eq12_kernel(x, y, bandwidth):
    """Eq 12, literally: exp(-|x - y|^2 / (2 sigma^2)) of two points."""
    return float(np.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * bandwidth**2)))


def mean_kernel(x, y, bandwidth, distinct=False):
    """Expectation of the kernel over all pairs of rows; ``distinct`` leaves out the pairs of equal position."""
    values = [
        eq12_kernel(x[a], y[b], bandwidth) for a in range(len(x)) for b in range(len(y)) if not (distinct and a == b)
    ]
    return sum(values) / len(values)


def eq11_bracket(x, y, bandwidth, unbiased=False):
    """The bracket of Eq 11, literally: E k(x, x') + E k(y, y') - 2 E k(x, y); unbiased: x and x' differ."""
    within = mean_kernel(x, x, bandwidth, unbiased) + mean_kernel(y, y, bandwidth, unbiased)
    return within - 2 * mean_kernel(x, y, bandwidth)


def eq11_mmd(latents, bandwidth, unbiased=False):
    """Eq 11, literally: 2 / (M (M - 1)) times the sum over i < j."""
    count = len(latents)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return 2 / (count * (count - 1)) * sum(eq11_bracket(latents[i], latents[j], bandwidth, unbiased) for i, j in pairs)


# --------------------------------------------------------------------------------------------------------------- Eq 13


def eq13_total(task, decoupling, hete, homo, alpha, beta):
    """Eq 13, literally: L_task + L_dec + alpha L_hete + beta L_homo."""
    return task + decoupling + alpha * hete + beta * homo


def supervised_contrastive(vectors, labels, temperature):
    """Supervised contrastive loss: per anchor the mean of -log softmax over its positives.

    Cosines over the temperature; the softmax runs over every other sample; positives share the anchor's label;
    mean over the anchors that have any.
    """
    unit = [v / np.linalg.norm(v) for v in vectors]
    losses = []
    for i in range(len(unit)):
        others = [j for j in range(len(unit)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            partition = sum(np.exp(unit[i] @ unit[j] / temperature) for j in others)
            losses.append(np.mean([np.log(partition) - unit[i] @ unit[j] / temperature for j in positives]))
    return float(np.mean(losses)) if losses else 0.0
