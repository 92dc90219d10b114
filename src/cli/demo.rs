//! `irori demo`.

use crate::{Error, Result};

/// Arguments of `irori demo`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori demo is not built yet"))
}
