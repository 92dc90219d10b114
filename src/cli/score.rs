//! `irori score`.

use crate::{Error, Result};

/// Arguments of `irori score`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori score is not built yet"))
}
