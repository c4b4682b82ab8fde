"""What keeps the suite's result from depending on how busy the machine is."""

import socket

from hypothesis import HealthCheck, settings

from tests.helpers.free_port import free_port


def test_no_example_of_a_property_has_a_deadline():
    assert settings().deadline is None
    assert settings(max_examples=5).deadline is None
    assert HealthCheck.too_slow in settings().suppress_health_check


def test_ports_for_processes_of_tests_are_given_out_once_and_not_those_of_outgoing_connections():
    found = [free_port() for _ in range(50)]
    assert len(set(found)) == len(found) and min(found) >= 20_000 and max(found) < 32_000
    with socket.create_server(("127.0.0.1", found[-1] + 1)):
        assert free_port() != found[-1] + 1
