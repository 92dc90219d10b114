//! SIGINT, SIGTERM and SIGHUP, which a closed terminal sends: the first asks the run to finish its step, write a checkpoint and end; the second ends the
//! process at once, as if irori had never caught it.

use crate::{Error, Result};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// Whether the run was asked to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// Catches the signals from now on. A SIGHUP that whoever started the process had it ignore (nohup does) stays ignored.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install() -> Result<Self> {
        let stop = Self::default();
        let armed = Arc::new(AtomicBool::new(false));
        let hangup = (!ignored(SIGHUP)).then_some(SIGHUP);
        for signal in [SIGINT, SIGTERM].into_iter().chain(hangup) {
            // In this order: the second signal finds the flag that the first one set.
            flag::register_conditional_default(signal, armed.clone())
                .and_then(|_| flag::register(signal, armed.clone()))
                .and_then(|_| flag::register_usize(signal, stop.signal.clone(), signal as usize))
                .map_err(|e| Error::failed(format!("cannot catch signal {signal}: {e}")))?;
        }
        Ok(stop)
    }

    /// Asks the run to end, as `signal` would.
    pub fn request(&self, signal: i32) {
        self.signal.store(signal as usize, Ordering::SeqCst);
    }

    /// The name of the signal that asked the run to end.
    pub fn requested(&self) -> Option<&'static str> {
        match self.signal.load(Ordering::SeqCst) as i32 {
            0 => None,
            SIGINT => Some("SIGINT"),
            SIGTERM => Some("SIGTERM"),
            SIGHUP => Some("SIGHUP"),
            _ => Some("a signal"),
        }
    }
}

/// Whether the process ignores a signal, by the mask that Linux shows (`SigIgn`, proc_pid_status(5)).
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).is_some_and(|m| m >> (signal - 1) & 1 == 1)
}
