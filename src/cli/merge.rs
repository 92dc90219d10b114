//! `irori merge`.

use crate::{Error, Result};

/// Arguments of `irori merge`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori merge is not built yet"))
}
