"""The checkers of the card by key; nothing here is shared with the solver but the problem."""

from __future__ import annotations

from collections.abc import Mapping

from surefoot.core.verify import Check
from surefoot.decentralized.verify_answer import distance, node_distance, suboptimality
from surefoot.decentralized.verify_graph import design, gossip
from surefoot.decentralized.verify_minibatch import floor as floor_batch
from surefoot.decentralized.verify_minibatch import mean_square as mean_square_batch
from surefoot.decentralized.verify_minibatch import rate as rate_batch
from surefoot.decentralized.verify_momentum import design as design_mixing
from surefoot.decentralized.verify_momentum import gap as gap_descent
from surefoot.decentralized.verify_momentum import gossip as gossip_mixing
from surefoot.decentralized.verify_momentum import mean_square as mean_square_mixing
from surefoot.decentralized.verify_momentum import rate as rate_mixing
from surefoot.decentralized.verify_momentum import slope as slope_descent
from surefoot.decentralized.verify_momentum import spread as spread_descent
from surefoot.decentralized.verify_momentum import stationarity as stationarity_descent
from surefoot.decentralized.verify_momentum import sufficient_time as time_mixing
from surefoot.decentralized.verify_peers import beside_extra, beside_nids
from surefoot.decentralized.verify_rate import mean_square, rate, sufficient_time
from surefoot.decentralized.verify_windows import design as design_windows
from surefoot.decentralized.verify_windows import gossip as gossip_windows
from surefoot.decentralized.verify_windows import mean_square as mean_square_windows
from surefoot.decentralized.verify_windows import rate as rate_windows
from surefoot.decentralized.verify_windows import sufficient_time as time_windows

CHECKS: Mapping[str, Check] = {
    "distance": distance,
    "node-distance": node_distance,
    "suboptimality": suboptimality,
    "gossip": gossip,
    "design": design,
    "rate": rate,
    "mean-square": mean_square,
    "time": sufficient_time,
    "gossip-windows": gossip_windows,
    "design-windows": design_windows,
    "rate-windows": rate_windows,
    "mean-square-windows": mean_square_windows,
    "time-windows": time_windows,
    "rate-batch": rate_batch,
    "floor-batch": floor_batch,
    "mean-square-batch": mean_square_batch,
    "mixing-gossip": gossip_mixing,
    "mixing-design": design_mixing,
    "mixing-rate": rate_mixing,
    "mixing-square": mean_square_mixing,
    "mixing-time": time_mixing,
    "descent-slope": slope_descent,
    "descent-gap": gap_descent,
    "descent-spread": spread_descent,
    "descent-stationarity": stationarity_descent,
    "beside-nids": beside_nids,
    "beside-extra": beside_extra,
}
