//! How a run goes on from a checkpoint: it must be the run that was cut off, and takes up its state.

use super::Run;
use crate::{
    Error, Result,
    data::Sample,
    error::Setting,
    train::{
        learner::Learner,
        output::Resume,
        state::{Identity, RunState, TrainerState, read_optimizer},
    },
};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::path::Path;

/// What must be the same for a resumed run to be the undisturbed one.
pub(super) fn identity_of<L: Learner>(run: &Run<'_, L>) -> Identity {
    Identity {
        config: run.config.trajectory(),
        config_hash: run.config.hash(),
        data: data_digest(run.samples),
        base: run.base.clone(),
        device: run.learner.device(),
    }
}

/// Sets the learner to the checkpoint and returns the state and the log history in it.
pub(super) fn restore<L: Learner>(
    run: &mut Run<'_, L>,
    identity: Identity,
    step: u64,
    dir: &Path,
) -> Result<(RunState, Vec<Map<String, Value>>)> {
    let mut state = RunState::read(dir)?;
    if state.step != step {
        return Err(Error::content(dir, "irori_state.json, field `step`", format!("is {}", state.step)));
    }
    let changes = identity.changes_from(&state.identity);
    if !changes.is_empty() {
        let changes = changes.join("; ");
        if run.output.resume != Resume::Anyway {
            let message = format!("this is not the run that was cut off: {changes}. Set it back, or resume it anyway");
            return Err(Error::setting(Setting::named("resume"), message).advise([Setting::named("resume-anyway")]));
        }
        run.observer.note(&format!("warning: resuming although {changes}"));
    }
    if identity.device != state.identity.device {
        run.observer.note(&format!(
            "warning: the device was {}, is {}: results may differ in the last bits",
            state.identity.device, identity.device
        ));
    }
    state.identity = identity;
    let (m, v) = read_optimizer(dir, run.learner.parameters(), step)?;
    run.learner.load_adapter(dir)?;
    run.learner.set_moments(&m, &v)?;
    Ok((state, TrainerState::read(dir)?.log_history))
}

/// SHA-256 of all tokens and labels in order, hexadecimal.
pub fn data_digest(samples: &[Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update((sample.tokens.len() as u64).to_le_bytes());
        hash.update(bytemuck::cast_slice::<u32, u8>(&sample.tokens));
        hash.update(bytemuck::cast_slice::<i32, u8>(&sample.labels));
    }
    crate::digest::hex(&hash.finalize())
}
