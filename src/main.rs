//! The `irori` program: parses the command line and calls one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    irori::cli::main()
}
