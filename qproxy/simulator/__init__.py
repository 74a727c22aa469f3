from qproxy.simulator.accounts import Account
from qproxy.simulator.control import Counters
from qproxy.simulator.oauth import Login
from qproxy.simulator.options import Options
from qproxy.simulator.request import Request
from qproxy.simulator.scenarios import SCENARIOS
from qproxy.simulator.server import Simulator, running

__all__ = ["SCENARIOS", "Account", "Counters", "Login", "Options", "Request", "Simulator", "running"]
