//! `irori bench`.

use crate::{Error, Result};

/// Arguments of `irori bench`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori bench is not built yet"))
}
