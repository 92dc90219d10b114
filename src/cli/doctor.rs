//! `irori doctor`.

use crate::{Error, Result};

/// Arguments of `irori doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori doctor is not built yet"))
}
