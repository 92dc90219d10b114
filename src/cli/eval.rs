//! `irori eval`.

use crate::{Error, Result};

/// Arguments of `irori eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori eval is not built yet"))
}
