//! `irori plan`.

use crate::{Error, Result};

/// Arguments of `irori plan`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori plan is not built yet"))
}
