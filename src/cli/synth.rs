//! `irori synth`.

use crate::{Error, Result};

/// Arguments of `irori synth`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori synth is not built yet"))
}
