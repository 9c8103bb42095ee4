"""Script the transfer of a cube from the right arm to the left one, as joint angles over time.

The expert thinks in poses of the point between an arm's fingers. The forearm does not roll, so the gripper stays in the vertical
plane that the waist turns, and the joint angles have a closed form. Lengths are those of the vx300s model that gym-aloha brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

type Floats = npt.NDArray[np.float64]

CONTROL_HZ = 50

# Where the arms stand [m] and where they look: the left one along +x, the right one along -x.
_LEFT_BASE, _RIGHT_BASE = np.array([-0.469, 0.5, 0.0]), np.array([0.469, 0.5, 0.0])
# vx300s: height of the shoulder, elbow seen from the shoulder (forward, up), elbow to wrist, wrist to the point between the fingers [m].
_SHOULDER_UP = 0.12705
_ELBOW_FORWARD, _ELBOW_UP = 0.05955, 0.3
_FOREARM = 0.3
_WRIST_TO_FINGERS = 0.2045

_OPEN, _CLOSED, _AT_REST = 1.0, 0.0, 0.1
# Pose of the fingers in the simulator's start pose: distance from the middle [m], height [m], pitch [deg].
_HOME_ASIDE, _HOME_UP, _HOME_PITCH_DEG = 0.1831, 0.3087, 5.73
_GRASP_PITCH_DEG = 60.0
# Turned from the grasp's pitch to this one, the cube has been tilted by 75 degrees: its faces lie square to the left gripper, which
# comes at the same pitch from the other side.
_MEET_PITCH_DEG = -15.0
_OVER = np.array([0, 0, 0.1])
# From the meeting point back to where a gripper waits, seen from the right arm.
_BACK = 0.12 * np.array([np.cos(np.radians(15)), 0, -np.sin(np.radians(15))])


@dataclass(frozen=True)
class Scene:
    """What differs from one demonstration to the next."""

    # Centre of the cube [x, y, z] in m, and its turn about the vertical.
    cube: Floats
    cube_yaw_rad: float
    # Where the cube changes hands.
    meeting_point: Floats
    # Amplitude [rad], frequency [Hz] and phase [rad] of the operator's tremor, each [3 waves, 14].
    tremor: tuple[Floats, Floats, Floats]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scene:
        """Draw a scene. The cube lies in gym-aloha's own rectangle, which the right arm reaches."""
        return cls(
            cube=rng.uniform((0.0, 0.4, 0.02), (0.2, 0.6, 0.02)),
            cube_yaw_rad=rng.uniform(-0.4, 0.4),
            meeting_point=rng.uniform((-0.02, 0.47, 0.22), (0.02, 0.53, 0.28)),
            tremor=(rng.uniform(0, 0.002, (3, 14)), rng.uniform(0.3, 2.0, (3, 14)), rng.uniform(0, 2 * np.pi, (3, 14))),
        )


@dataclass(frozen=True)
class Waypoint:
    """Where a gripper is at a time: point between the fingers [m], pitch down and roll [deg], opening 0..1."""

    time_s: float
    position: Floats
    pitch_deg: float
    roll_deg: float
    opening: float


def script(scene: Scene) -> Floats:
    """Joint commands [steps, 14] that transfer the cube: left arm 6 [rad], left gripper 0..1, right arm 6, right gripper."""
    left = arm_angles(_LEFT_BASE, 1.0, _sample(_left_arm(scene)))
    right = arm_angles(_RIGHT_BASE, -1.0, _sample(_right_arm(scene)))
    commands = np.hstack([left, right])
    amplitude, frequency_hz, phase = scene.tremor
    time_s = np.arange(len(commands))[:, None, None] / CONTROL_HZ
    tremor = (amplitude * np.sin(2 * np.pi * frequency_hz * time_s + phase)).sum(axis=1)
    tremor[:, [6, 13]] = 0.0  # a trigger rests at its stop
    return commands + tremor


def _right_arm(scene: Scene) -> list[Waypoint]:
    """Grasp the cube at a slant from above, bring it to the meeting point, let it go when the other arm has it."""
    cube, meet = scene.cube, scene.meeting_point
    home, above, aside = np.array([_HOME_ASIDE, 0.5, _HOME_UP]), cube + _OVER, meet + _BACK
    pitch, roll = _GRASP_PITCH_DEG, _grasp_roll_deg(scene)
    return [
        Waypoint(0.0, home, _HOME_PITCH_DEG, 0, _AT_REST),
        Waypoint(0.3, home, _HOME_PITCH_DEG, 0, _AT_REST),
        Waypoint(1.5, above, pitch, roll, _OPEN),
        Waypoint(2.2, cube, pitch, roll, _OPEN),
        Waypoint(2.5, cube, pitch, roll, _OPEN),
        Waypoint(2.9, cube, pitch, roll, _CLOSED),
        Waypoint(4.0, meet, _MEET_PITCH_DEG, 0, _CLOSED),
        Waypoint(5.2, meet, _MEET_PITCH_DEG, 0, _CLOSED),
        Waypoint(5.5, meet, _MEET_PITCH_DEG, 0, _OPEN),
        Waypoint(6.1, aside, _MEET_PITCH_DEG, 0, _OPEN),
        Waypoint(6.4, aside, _MEET_PITCH_DEG, 0, _OPEN),
    ]


def _left_arm(scene: Scene) -> list[Waypoint]:
    """Come to the meeting point with the gripper rolled by 90 degrees, grasp, and draw back with the cube."""
    meet = scene.meeting_point
    home, waiting = np.array([-_HOME_ASIDE, 0.5, _HOME_UP]), meet + _BACK * [-1, 1, 1]
    return [
        Waypoint(0.0, home, _HOME_PITCH_DEG, 0, _AT_REST),
        Waypoint(1.4, home, _HOME_PITCH_DEG, 0, _AT_REST),
        Waypoint(3.2, waiting, _MEET_PITCH_DEG, 90, _OPEN),
        Waypoint(4.2, waiting, _MEET_PITCH_DEG, 90, _OPEN),
        Waypoint(4.7, meet, _MEET_PITCH_DEG, 90, _OPEN),
        Waypoint(4.9, meet, _MEET_PITCH_DEG, 90, _OPEN),
        Waypoint(5.2, meet, _MEET_PITCH_DEG, 90, _CLOSED),
        Waypoint(5.5, meet, _MEET_PITCH_DEG, 90, _CLOSED),
        Waypoint(6.1, waiting, _MEET_PITCH_DEG, 90, _CLOSED),
        Waypoint(6.4, waiting, _MEET_PITCH_DEG, 90, _CLOSED),
    ]


def _grasp_roll_deg(scene: Scene) -> float:
    """Roll of the pitched right gripper that brings its fingers parallel to the cube's faces."""
    forward, side = _RIGHT_BASE[0] - scene.cube[0], _RIGHT_BASE[1] - scene.cube[1]
    turn = np.arctan2(side, forward) - scene.cube_yaw_rad
    return float(np.degrees(np.arctan(np.tan(turn) / np.sin(np.radians(_GRASP_PITCH_DEG)))))


def _sample(waypoints: list[Waypoint]) -> Floats:
    """Waypoints at the control rate, eased in and out: [steps, 6] = x, y, z, pitch [rad], roll [rad], opening."""
    rows = []
    for before, after in pairwise(waypoints):
        steps = round(after.time_s * CONTROL_HZ) - round(before.time_s * CONTROL_HZ)
        share = np.arange(steps)[:, None] / steps
        rows.append(_row(before) + (_row(after) - _row(before)) * share * share * (3 - 2 * share))
    return np.vstack(rows)


def _row(w: Waypoint) -> Floats:
    return np.array([*w.position, *np.radians([w.pitch_deg, w.roll_deg]), w.opening])


def arm_angles(base: Floats, facing: float, poses: Floats) -> Floats:
    """Inverse kinematics of one arm: poses [n, 6] (x, y, z, pitch, roll, opening) to six joints and gripper [n, 7]."""
    forward, side, up = facing * (poses[:, 0] - base[0]), facing * (poses[:, 1] - base[1]), poses[:, 2]
    pitch, roll, opening = poses[:, 3], poses[:, 4], poses[:, 5]
    # The wrist seen from the shoulder, in the plane of the arm; then a triangle of upper arm and forearm, elbow up.
    reach = np.hypot(forward, side) - _WRIST_TO_FINGERS * np.cos(pitch)
    height = up + _WRIST_TO_FINGERS * np.sin(pitch) - _SHOULDER_UP
    upper_arm, distance = np.hypot(_ELBOW_FORWARD, _ELBOW_UP), np.hypot(reach, height)
    lean = np.arctan2(reach, height) - np.arccos((upper_arm**2 + distance**2 - _FOREARM**2) / (2 * upper_arm * distance))
    forearm_pitch = np.arctan2(upper_arm * np.cos(lean) - height, reach - upper_arm * np.sin(lean))
    shoulder = lean - np.arctan2(_ELBOW_FORWARD, _ELBOW_UP)
    waist = np.arctan2(side, forward)
    return np.column_stack([waist, shoulder, forearm_pitch - shoulder, np.zeros_like(roll), pitch - forearm_pitch, roll, opening])
