"""A stand-in for MLflow that records its calls."""

import types

from recording import record


class MlflowClient:
    """The client calls that a run makes, recorded in the form of the other trackers."""

    def get_experiment_by_name(self, name: str) -> types.SimpleNamespace:
        return types.SimpleNamespace(experiment_id=f"of {name}")

    def create_run(self, experiment_id: str, run_name: str) -> types.SimpleNamespace:
        record("mlflow", "init", id=None, name=run_name, experiment=experiment_id)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="made-by-mlflow"))

    def update_run(self, run_id: str, status: str) -> None:
        record("mlflow", "init", id=run_id, status=status)

    def log_batch(self, run_id: str, metrics: list = [], params: list = []) -> None:  # noqa: B006
        assert run_id == "made-by-mlflow"
        if params:
            record("mlflow", "config", config=dict(params))
        for step in sorted({step for _, _, step in metrics}):
            values = {name: value for name, value, metric_step in metrics if metric_step == step}
            record("mlflow", "log", step=step, values=values)

    def set_terminated(self, run_id: str, status: str) -> None:
        record("mlflow", "finish", status=status)
