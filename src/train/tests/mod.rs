//! The trainer on a parabola. What holds for it holds for any [`Learner`](super::Learner) whose state is its adapter and
//! moments.

mod case;
mod checkpoints;
mod parabola;
mod runs;
mod steps;
