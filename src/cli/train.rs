//! `irori train`.

use crate::{Error, Result};

/// Arguments of `irori train`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori train is not built yet"))
}
