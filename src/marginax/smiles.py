"""The volatility smile of one expiry: what an option at an unquoted strike is worth, without arbitrage.

Conventions: k = log(K / F); w(k) = volatility^2 x years is total variance. Five strikes and more carry raw SVI,

    w(k) = a + b (rho (k - m) + sqrt((k - m)^2 + sigma^2)),

two to four carry total variance linear in k between the quotes and a flat volatility beyond; one is a flat smile.
Source: Gatheral and Jacquier (2014), Arbitrage-free SVI volatility surfaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike
from scipy.optimize import least_squares

# As many as SVI has parameters: fewer strikes leave a family of curves that all fit.
SVI_STRIKES = 5
# Strikes closer than a billionth of the forward are one strike, written twice.
STRIKE_DECIMALS = 9
# Lee's moment formula: total variance grows by less than 2 per unit of log-moneyness, or the forward has no mean. Far
# out g tends to 1/4 - slope^2 / 16, at this slope just above what is aimed at below.
MOST_SLOPE = 1.99
# Butterflies are watched densely over three times the quoted range, and two standard deviations at least, and then
# sparsely a hundred times as far, from where on Lee's bound does it. Fits see every fourth point of the grid, on which
# their result is checked.
REACH, DEVIATIONS, FAR, CHECKED, THINNED = 1.5, 2.0, 100.0, 241, 4
# What g must be on the grid, so that it is not negative between its points; what a fit aims at to get there; and what
# falling short weighs against a volatility, until it is enough: grave from the start costs fits their way there.
ENOUGH_G, AIMED_G, PENALTIES = 1e-3, 2e-3, (1.0, 30.0, 1000.0)
# The least total variance of a fitted smile over the least quoted, a tenth of the volatility: no smile has a wing or a
# valley without any, and g is then no division by zero.
LEAST_SHARE = 0.01
# Later total variance may be less by rounding and by the tolerance of the fits.
CALENDAR_SLACK = 1e-6


@dataclass(frozen=True)
class RawSvi:
    """Total variance in Gatheral's raw parameters; `rho` tilts, `sigma` rounds the corner at `m`."""

    a: float
    b: float
    rho: float
    m: float
    sigma: float

    def total_variance(self, k: ArrayLike) -> Float64[np.ndarray, "..."]:
        """Volatility squared times years at log-moneyness k."""
        return self.derivatives(np.asarray(k, np.float64))[0]

    def durrleman(self, k: ArrayLike) -> Float64[np.ndarray, "..."]:
        """g(k), the density of the underlying over a positive factor: no butterfly loses money where g is not negative.

        g = (1 - k w' / 2 w)^2 - w'^2 / 4 (1 / w + 1 / 4) + w'' / 2. Source: Gatheral and Jacquier (2014), lemma 2.2.
        """
        at = np.asarray(k, np.float64)
        w, slope, bend = self.derivatives(at)
        return (1 - at * slope / (2 * w)) ** 2 - slope**2 / 4 * (1 / w + 0.25) + bend / 2

    def derivatives(self, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """w, w' and w'' at log-moneyness k."""
        x = k - self.m
        root = np.hypot(x, self.sigma)
        slope = self.b * (self.rho + x / root)
        return self.a + self.b * (self.rho * x + root), slope, self.b * self.sigma**2 / root**3


@dataclass(frozen=True, eq=False)
class Smile:
    """The smile of an expiry `years` away, and the quotes it was fitted to, strikes rising.

    `rms` is the root mean square distance of the fit from the quotes, in volatility. `butterfly_free` says that no
    butterfly of the fit loses money; between two and four strikes that differ, the kinks always leave one.
    """

    years: float
    log_moneyness: Float64[np.ndarray, " strikes"]
    quoted: Float64[np.ndarray, " strikes"]
    svi: RawSvi | None
    rms: float
    butterfly_free: bool

    def volatility(self, k: ArrayLike) -> Float64[np.ndarray, "..."]:
        """The fitted volatility at log-moneyness k: free of butterfly arbitrage, and near the quotes only."""
        if self.svi is not None:
            return np.sqrt(self.svi.total_variance(k) / self.years)
        return np.sqrt(np.interp(np.asarray(k, np.float64), self.log_moneyness, self.quoted**2))

    def at(self, k: ArrayLike) -> Float64[np.ndarray, "..."]:
        """The volatility of a missing strike: through every quote, by the fit's shape between them and beyond.

        The ratio of quote to fit is linear in k and flat outside, so the quotes' own arbitrage, if any, is carried on.
        Strikes left out of real chains come back closer than by the fit or by lines alone: every second of BTC and ETH
        0.32, 0.60 and 0.36 volatility points away in the mean, the outer third 3.0, 3.2 and 9.9 (flat); of SPY 0.16,
        0.61 and 0.16, and 2.2, 2.4 and 4.7.
        """
        missing = np.asarray(k, np.float64)
        ratio = self.quoted / self.volatility(self.log_moneyness)
        return self.volatility(missing) * np.interp(missing, self.log_moneyness, ratio)


@dataclass(frozen=True)
class CalendarViolation:
    """Total variance falls by `shortfall` from smile `near` to the later smile `far`, most at `log_moneyness`."""

    near: int
    far: int
    log_moneyness: float
    shortfall: float


def fit_smile(
    log_moneyness: ArrayLike, volatility: ArrayLike, years: float, *, weight: ArrayLike | None = None
) -> Smile:
    """The smile through quoted volatilities, by least squares on volatility, weighted if asked.

    Quotes without a finite log-moneyness, a positive volatility and a positive weight count as missing; those of the
    same strike are averaged. SVI obeys b >= 0, |rho| < 1, sigma > 0, a positive least variance, Lee's bound on both
    wings, and Durrleman's g >= 0 wherever it is looked at. Cost: three to fifteen milliseconds.

    Raises ValueError when no quote is left, when `years` is not positive, and on arrays of different lengths.
    """
    if not (np.isfinite(years) and years > 0):
        raise ValueError(f"`years={years}` leaves no time for a volatility. Fit only expiries that lie ahead.")
    quotes = [np.atleast_1d(np.asarray(values, np.float64)) for values in (log_moneyness, volatility)]
    quotes.append(np.ones_like(quotes[1]) if weight is None else np.atleast_1d(np.asarray(weight, np.float64)))
    if len({values.shape for values in quotes}) > 1 or quotes[0].ndim != 1:
        shapes = ", ".join(str(values.shape) for values in quotes)
        raise ValueError(f"Shapes {shapes} of strikes, volatilities and weights make no quotes. Give one of each.")
    with np.errstate(invalid="ignore"):
        known = np.isfinite(quotes).all(axis=0) & (quotes[1] > 0) & (quotes[2] > 0)
    if not known.any():
        raise ValueError(
            f"None of {len(known)} quotes has a strike and a volatility, so there is no smile. Give one that is "
            "positive, or use the smile of another expiry."
        )
    k, vol, mass = _distinct(*(values[known] for values in quotes))
    if len(k) < SVI_STRIKES:
        return Smile(float(years), k, vol, None, 0.0, bool(np.ptp(vol) == 0))
    svi, free = _fit_svi(k, vol, float(years), mass)
    rms = float(np.sqrt(np.average((np.sqrt(svi.total_variance(k) / years) - vol) ** 2, weights=mass)))
    return Smile(float(years), k, vol, svi, rms, free)


def calendar_violations(smiles: Sequence[Smile]) -> list[CalendarViolation]:
    """Where an option would lose value by living longer: each smile against the next later one, indices as given.

    Looked for over the log-moneyness that both quote: what a short expiry says beyond its quotes is nobody's price.
    """
    found = []
    order = sorted(range(len(smiles)), key=lambda n: smiles[n].years)
    for near, far in pairwise(order):
        one, other = smiles[near], smiles[far]
        low = max(one.log_moneyness[0], other.log_moneyness[0])
        high = min(one.log_moneyness[-1], other.log_moneyness[-1])
        if low > high or one.years == other.years:
            continue
        k = np.linspace(low, high, CHECKED)
        early, late = one.volatility(k) ** 2 * one.years, other.volatility(k) ** 2 * other.years
        shortfall = early - late
        worst = int(np.argmax(shortfall))
        if shortfall[worst] > CALENDAR_SLACK * early[worst]:
            found.append(CalendarViolation(near, far, float(k[worst]), float(shortfall[worst])))
    return found


def _distinct(k: np.ndarray, vol: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strikes rising, each once, with the weighted mean of its volatilities and all of its weight."""
    _, first, place = np.unique(np.round(k, STRIKE_DECIMALS), return_index=True, return_inverse=True)
    total = np.bincount(place, mass)
    return k[first], np.bincount(place, mass * vol) / total, total / total.mean()


def _fit_svi(k: np.ndarray, vol: np.ndarray, years: float, mass: np.ndarray) -> tuple[RawSvi, bool]:
    """SVI nearest the quotes among those without a butterfly that loses money, and whether there was one.

    The search runs over (least variance, right slope, left slope, m, sigma): in these every bound is a box.
    """
    w, root, width = vol**2 * years, np.sqrt(mass), k[-1] - k[0]
    grid = _butterfly_grid(k, DEVIATIONS * float(np.sqrt(np.median(w))))
    thin = grid[::THINNED]
    scale = np.array([w.mean(), w.mean() / width, w.mean() / width, width, width])
    least, tiny = LEAST_SHARE * w.min(), 1e-6 * min(w.min() / width, 1.0)
    # A corner far outside the quotes, or wider than they reach, is a parabola or a line, whatever its exact place.
    lower = np.array([least, tiny, tiny, k[0] - width, 1e-3 * width])
    upper = np.array([2 * w.max(), MOST_SLOPE, MOST_SLOPE, k[-1] + width, 5 * width])

    def refined(start: np.ndarray, penalty: float) -> np.ndarray:
        def residuals(theta: np.ndarray) -> np.ndarray:
            svi = _raw(theta)
            misfit = root * (np.sqrt(svi.total_variance(k) / years) - vol)
            return np.concatenate([misfit, penalty * np.minimum(svi.durrleman(thin) - AIMED_G, 0)])

        def jacobian(theta: np.ndarray) -> np.ndarray:
            svi = _raw(theta)
            of_misfit = root / (2 * np.sqrt(svi.total_variance(k) * years)) * _gradients(theta, k)[0]
            of_penalty = penalty * (svi.durrleman(thin) < AIMED_G) * _g_gradient(theta, thin)
            return np.concatenate([of_misfit, of_penalty], axis=1).T

        # A step that takes a hundred-thousandth off the sum of squares is the last: nothing to quotes with any noise.
        bounds, tolerance = (lower, upper), {"xtol": 1e-8, "ftol": 1e-5, "gtol": 1e-12}
        return least_squares(residuals, start, jacobian, bounds, x_scale=scale, max_nfev=100, **tolerance).x

    theta = np.clip(_start(k, w, root / (2 * vol * years)), lower, upper)
    for penalty in PENALTIES:
        theta = refined(theta, penalty)
        if _raw(theta).durrleman(grid).min() >= ENOUGH_G:
            break
    # What wild quotes leave short of it is mixed with a flat smile, whose g is 1.
    flat = np.array([np.average(w, weights=mass), tiny, tiny, theta[3], theta[4]])
    for share in np.linspace(1, 0, 21):
        svi = _raw(share * theta + (1 - share) * flat)
        if svi.durrleman(grid).min() >= ENOUGH_G:
            return svi, True
    return svi, False


def _butterfly_grid(k: np.ndarray, wide: float) -> np.ndarray:
    middle, half = (k[0] + k[-1]) / 2, REACH * (k[-1] - k[0])
    low, high = min(middle - half, -wide), max(middle + half, wide)
    beyond = (high - low) / 2 * (np.geomspace(1, FAR, CHECKED // 2) - 1)[1:]
    return np.concatenate([low - beyond[::-1], np.linspace(low, high, CHECKED), high + beyond])


def _start(k: np.ndarray, w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The best of a grid over m and sigma, given which SVI is linear in the rest: weighted least squares, then clipped.

    Source: Zeliade (2009), quasi-explicit calibration of Gatheral's SVI model.
    """
    width = k[-1] - k[0]
    m, sigma = (axis.ravel() for axis in np.meshgrid(np.linspace(k[0], k[-1], 9), width * np.geomspace(0.02, 1.5, 8)))
    x = k - m[:, None]
    root = np.hypot(x, sigma[:, None])
    columns = np.stack([np.ones_like(x), x / width, root / width], axis=-1)
    normal = np.einsum("gni,n,gnj->gij", columns, scale**2, columns)
    # Wide corners are nearly parabolas, and parabola, line and constant nearly one another's sum: a slight ridge.
    normal += 1e-10 * np.einsum("gii->gi", normal)[:, :, None] * np.eye(3)
    wanted = np.einsum("gni,n->gi", columns, scale**2 * w)
    _, tilt, b = np.linalg.solve(normal, wanted[..., None])[..., 0].T / width
    right, left = np.clip([b + tilt, b - tilt], 1e-6 * w.min() / width, MOST_SLOPE)
    shape = (right - left)[:, None] / 2 * x + (right + left)[:, None] / 2 * root
    dip = sigma * np.sqrt(right * left)
    low = np.maximum(np.average(w - shape, axis=1, weights=scale**2) + dip, LEAST_SHARE * w.min())
    cost = np.sum((((low - dip)[:, None] + shape - w) * scale) ** 2, axis=1)
    return np.stack([low, right, left, m, sigma], axis=1)[np.argmin(cost)]


def _raw(theta: np.ndarray) -> RawSvi:
    low, right, left, m, sigma = (float(value) for value in theta)
    return RawSvi(low - sigma * sqrt(right * left), (right + left) / 2, (right - left) / (right + left), m, sigma)


def _gradients(theta: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Derivatives of w, w' and w'' by each parameter of the search."""
    _, right, left, m, sigma = theta
    svi, x, b = _raw(theta), k - m, (right + left) / 2
    root = np.hypot(x, sigma)
    _, slope, bend = svi.derivatives(k)
    unit, none, half_bend = np.ones_like(k), np.zeros_like(k), sigma**2 / root**3 / 2
    by_right, by_left = (root + x - sigma * np.sqrt(left / right)) / 2, (root - x - sigma * np.sqrt(right / left)) / 2
    return (
        np.array([unit, by_right, by_left, -slope, b * sigma / root - np.sqrt(right * left)]),
        np.array([none, (x / root + 1) / 2, (x / root - 1) / 2, -bend, -b * x * sigma / root**3]),
        np.array([none, half_bend, half_bend, 3 * bend * x / root**2, bend * (2 / sigma - 3 * sigma / root**2)]),
    )


def _g_gradient(theta: np.ndarray, k: np.ndarray) -> np.ndarray:
    w, slope, _ = _raw(theta).derivatives(k)
    of_w, of_slope, of_bend = _gradients(theta, k)
    inner = 1 - k * slope / (2 * w)
    by_w = inner * k * slope / w**2 + slope**2 / (4 * w**2)
    by_slope = -inner * k / w - slope / 2 * (1 / w + 0.25)
    return by_w * of_w + by_slope * of_slope + of_bend / 2
