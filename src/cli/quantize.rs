//! `irori quantize`.

use crate::{Error, Result};

/// Arguments of `irori quantize`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori quantize is not built yet"))
}
