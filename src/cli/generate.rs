//! `irori generate`.

use crate::{Error, Result};

/// Arguments of `irori generate`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori generate is not built yet"))
}
