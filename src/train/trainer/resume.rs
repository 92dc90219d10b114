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
    if arithmetic(&identity.device) != arithmetic(&state.identity.device) {
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

/// What decides the bits of a device's results: all of its description but how many threads there are.
fn arithmetic(device: &str) -> Vec<&str> {
    let counts_threads = |part: &&str| part.split(' ').nth(1).is_some_and(|word| ["thread", "threads"].contains(&word));
    device.split(", ").filter(|part| !counts_threads(part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, cpu::CpuBackend};

    #[test]
    fn threads_are_no_other_device() {
        let cpu = |threads| CpuBackend::new(Some(threads)).expect("opens").describe();
        assert_ne!(cpu(1), cpu(3));
        assert_eq!(arithmetic(&cpu(1)), arithmetic(&cpu(3)));
        let [old, new] = ["CPU, 2 threads, AVX2", "CPU, 2 threads, AVX-512"];
        assert_ne!(arithmetic(old), arithmetic(new));
        assert_ne!(arithmetic(old), arithmetic("NVIDIA A100"));
    }
}
