//! Training: the loop, its schedule, its checkpoints and its log.
//!
//! The semantics are those of transformers' `Trainer`, without its known mistakes: one denominator per step, counted
//! before the first micro-batch; checkpoints that are whole or not there; a resumed run that is the undisturbed run, bit
//! for bit.
//!
//! | file | what is in it |
//! |---|---|
//! | [`settings`] | what a user can set, each setting defined once |
//! | [`config`] | the values decided: checked, written, and what of them a resume must find unchanged |
//! | [`steps`] | which samples make up which step, and how they are packed |
//! | [`schedule`] | the learning rate of each step |
//! | [`learner`] | what the loop needs of a model |
//! | [`trainer`] | the loop; what it writes, and how it goes on from a checkpoint |
//! | [`evaluate`] | loss on held-out samples, the best checkpoint, early stopping |
//! | [`state`] | what a checkpoint remembers beside the tensors; `trainer_state.json` |
//! | [`checkpoint`] | directories that are written whole, verified and found again |
//! | [`output`] | the output directory: who may write there, and what is there already |
//! | [`provenance`] | what an adapter was trained beside, for whatever uses it afterwards |
//! | [`metrics`] | `metrics.jsonl` |
//! | [`progress`] | what the user sees meanwhile |
//! | [`stop`] | SIGINT, SIGTERM and SIGHUP |

pub mod checkpoint;
pub mod config;
pub mod evaluate;
pub mod learner;
pub mod metrics;
pub mod output;
pub mod progress;
pub mod provenance;
pub mod schedule;
pub mod settings;
pub mod state;
pub mod steps;
pub mod stop;
pub mod trainer;

#[cfg(test)]
mod tests;

pub use config::TrainConfig;
pub use learner::{EngineLearner, Learner};
pub use settings::Settings;
pub use trainer::{Outcome, Run, train};
