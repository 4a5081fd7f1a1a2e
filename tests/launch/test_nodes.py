"""How many hosts train, where they meet and who leads: parameters first, then the variables of torchrun and Slurm."""

import logging
import socket
from typing import Any

import pytest

from genxfer.errors import ParameterError, TrainingError
from genxfer.launch.meeting import wait_until_known
from genxfer.launch.nodes import ALONE, Nodes, find_nodes, first_host, interface_of, own_address

KUBEFLOW = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "train-0", "PET_MASTER_PORT": "23456"}
SLURM = {
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NODELIST": "node[07-09]",
    "SLURM_JOB_ID": "123456",
}


def test_without_a_word_a_host_is_alone() -> None:
    assert find_nodes("auto", None, {}) is ALONE
    assert find_nodes(1, None, KUBEFLOW) is ALONE
    assert find_nodes(1, "10.0.0.1:29400", {}) is ALONE


def test_whose_address_the_meeting_point_is_leads() -> None:
    assert find_nodes(2, "127.0.0.1:4000", {}) == Nodes(2, "127.0.0.1", 4000, leads=True)
    assert find_nodes(2, "192.0.2.1", {}) == Nodes(2, "192.0.2.1", 29400, leads=False)  # RFC 5737: nobody's
    assert find_nodes(2, "[::1]:4000", {}).endpoint == "[::1]:4000"


def test_the_environment_of_torchrun_and_slurm_is_understood() -> None:
    assert find_nodes("auto", None, KUBEFLOW) == Nodes(2, "train-0", 23456, leads=False)
    assert find_nodes("auto", None, KUBEFLOW | {"PET_NODE_RANK": "0"}).leads
    assert find_nodes("auto", None, {"PET_NNODES": "2", "PET_RDZV_ENDPOINT": "127.0.0.1:4000"}).leads
    assert find_nodes("auto", None, SLURM) == Nodes(3, "node07", 23456, leads=True)
    assert not find_nodes("auto", None, SLURM | {"SLURM_NODEID": "2"}).leads


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node07", "node07"),
        ("node07,node09", "node07"),
        ("node[07-09,12]", "node07"),
        ("n[3,5]-gpu,other", "n3-gpu"),
        ("a.example.org,b[1-2]", "a.example.org"),
    ],
)
def test_the_first_host_of_slurms_lists(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize(
    ("asked", "meeting_point", "environment", "says"),
    [
        (2, None, {}, "compute.nodes is 2, but where the hosts meet is not known. Give --rdzv HOST:PORT"),
        (2, "host:port", {}, "The meeting point is 'host:port'; it must be HOST:PORT"),
        (2, "host:70000", {}, "it must be HOST:PORT with a port from 1 to 65535"),
        (2, "no-such-host.invalid:1", {}, "host 'no-such-host.invalid' is not known here"),
        (2, "train..example:1", {}, "host 'train..example' is not known here (no host can be called so)"),
        ("auto", "10.0.0.1:4000", {}, "Add --nodes N"),
        ("auto", None, {"PET_NNODES": "1:4"}, "PET_NNODES is '1:4' in the environment; it must be a fixed number"),
    ],
)
def test_what_cannot_work_is_explained(asked: int, meeting_point: str, environment: dict[str, str], says: str) -> None:
    with pytest.raises(ParameterError) as caught:
        find_nodes(asked, meeting_point, environment)
    assert says in str(caught.value)


def test_the_address_and_the_interface_by_which_others_reach_us() -> None:
    assert own_address(Nodes(2, "127.0.0.1", 4000)) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


def test_a_name_of_the_loopback_is_no_meeting_point_of_several_hosts() -> None:
    with pytest.raises(ParameterError, match=r"'localhost', which is (127\.0\.0\.1|::1) .* --rdzv 10.0.0.1:4000"):
        own_address(Nodes(2, "localhost", 4000))
    assert own_address(Nodes(2, "127.0.1.1", 4000)).startswith("127.")


def test_a_meeting_point_that_nobody_knows_is_refused_with_what_to_give() -> None:
    with pytest.raises(ParameterError, match=r"meet at 'nowhere\.invalid', which this one does not know.*--rdzv"):
        own_address(Nodes(2, "nowhere.invalid", 29400, leads=False))


def test_a_meeting_point_to_which_no_way_leads_is_refused_with_what_to_give() -> None:
    with pytest.raises(ParameterError, match=r"meet at '255\.255\.255\.255', which .* knows no way to: .*--rdzv"):
        own_address(Nodes(2, "255.255.255.255", 29400, leads=False))


def test_a_name_that_is_not_known_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [socket.gaierror(socket.EAI_NONAME, "Name or service not known")] * 3
    pauses: list[float] = []

    def answer(*_: Any, **__: Any) -> list[Any]:
        if len(pauses) < len(answers):
            raise answers[len(pauses)]
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("10.0.0.1", 29400))]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with caplog.at_level(logging.INFO, "genxfer.launch"):
        wait_until_known(Nodes(2, "train-0.train", 29400, leads=False), pause=pauses.append)
    assert pauses == [1.0, 1.0, 1.0]
    [said] = [record.getMessage() for record in caplog.records]
    assert said == (
        "The hosts are to meet at 'train-0.train', which is not known yet (Name or service not known): waiting for it, "
        "at most 600 s."
    )


def test_a_name_that_stays_unknown_is_no_wrong_parameter_as_another_try_may_find_it() -> None:
    with pytest.raises(TrainingError, match=r"meet at 'nowhere\.invalid', a name .* within 0 s \(.*PET_RDZV_ENDPOINT"):
        wait_until_known(Nodes(2, "nowhere.invalid", 29400, leads=False), within_s=0)


def test_one_host_waits_for_no_name_and_what_can_be_no_name_is_not_waited_for() -> None:
    wait_until_known(ALONE, pause=pytest.fail)
    wait_until_known(Nodes(2, "train..example", 29400), pause=pytest.fail)
