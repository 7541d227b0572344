"""A straight line through what has been measured, kept up to date as more comes."""


class Trend:
    """y = a + b x with a and b of at least 0, by least squares; what was seen long ago counts less.

    Recursive least squares with exponential forgetting (Ljung, System Identification, 1999, 11.2), as sums.
    """

    def __init__(self, keep: float = 0.98) -> None:
        """`keep`: how much of its weight a measurement has when the next one comes."""
        self._keep = keep
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def see(self, x: float, y: float) -> None:
        """A measurement."""
        sums = (self._n, self._x, self._y, self._xx, self._xy)
        new = (1.0, x, y, x * x, x * y)
        self._n, self._x, self._y, self._xx, self._xy = (
            self._keep * old + own for old, own in zip(sums, new, strict=True)
        )

    def __call__(self, x: float) -> float:
        """What y is expected to be; 0 before anything was seen."""
        slope = self.slope
        return max(0.0, (self._y - slope * self._x) / self._n) + slope * x if self._n else 0.0

    @property
    def slope(self) -> float:
        """b; 0 where all x are alike, which tells nothing of others."""
        spread = self._n * self._xx - self._x**2
        if spread <= 1e-9 * self._n * self._xx:
            return 0.0
        return min(max(0.0, (self._n * self._xy - self._x * self._y) / spread), self._xy / self._xx)
