"""Stand-ins for MLflow's metrics and params, which are tuples here."""


def Metric(key: str, value: float, timestamp: int, step: int) -> tuple[str, float, int]:
    assert timestamp > 1_500_000_000_000  # milliseconds
    return key, value, step


def Param(key: str, value: str) -> tuple[str, str]:
    return key, value
