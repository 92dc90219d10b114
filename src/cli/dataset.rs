//! `irori dataset`.

use crate::{Error, Result};

/// Arguments of `irori dataset`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori dataset is not built yet"))
}
