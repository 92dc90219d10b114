//! `irori compare`.

use crate::{Error, Result};

/// Arguments of `irori compare`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_args: Args) -> Result<()> {
    Err(Error::failed("irori compare is not built yet"))
}
