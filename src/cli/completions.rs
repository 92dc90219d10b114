//! `irori completions` and `irori man`: what a shell and a manual need to know of the command line, made from it.

use super::{Cli, output::OutputFile, print};
use crate::{Error, Result, files};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use std::path::PathBuf;

/// Arguments of `irori completions`.
#[derive(Debug, clap::Args)]
pub struct Completions {
    /// The shell that completes
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `irori man`.
#[derive(Debug, clap::Args)]
pub struct Pages {
    /// Write a page for the program and one for each command into this directory [default: print the program's]
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace pages that are there already
    #[arg(long)]
    force: bool,
}

/// Prints the script that teaches a shell to complete irori's commands and flags.
pub fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "irori", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints a manual page, or writes all of them.
pub fn man(args: &Pages) -> Result<()> {
    let pages = pages()?;
    let Some(dir) = &args.output else {
        return print(&String::from_utf8_lossy(pages.last().map(|(_, page)| page.as_slice()).unwrap_or_default()));
    };
    files::create_dirs(dir)?;
    // All or none: what exists is found before anything is written.
    let places =
        pages.iter().map(|(name, _)| OutputFile::new(&dir.join(name), args.force)).collect::<Result<Vec<_>>>()?;
    for (place, (_, page)) in places.iter().zip(&pages) {
        place.write(page)?;
    }
    print(&format!("{} pages are written to {}\n", pages.len(), dir.display()))
}

/// Names and contents of the manual's pages, the program's own last.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    fn add(command: &Command, all: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            add(sub, all)?;
        }
        let page = Man::new(command.clone()).manual("irori");
        let mut text = Vec::new();
        page.render(&mut text).map_err(|e| Error::internal(format!("a manual page cannot be written: {e}")))?;
        all.push((page.get_filename(), text));
        Ok(())
    }
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut all = Vec::new();
    add(&command, &mut all)?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let output = Some(dir.path().join("man1"));
        man(&Pages { output: output.clone(), force: false }).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("man1").join(name)).unwrap();
        let commands: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
        for command in &commands {
            let page = read(&format!("irori-{command}.1"));
            assert!(page.contains(&format!("irori\\-{command}")), "{command}: {page}");
            assert!(read("irori.1").contains(&format!("irori\\-{command}(1)")), "{command}");
        }
        assert!(commands.len() > 13, "{commands:?}");
        assert!(
            read("irori-train.1").contains("\\-\\-learning\\-rate") && read("irori-dataset-inspect.1").contains("loss")
        );
        let again = man(&Pages { output: output.clone(), force: false }).unwrap_err();
        assert!(again.exit_code() == 2 && again.to_string().contains("exists"), "{again}");
        man(&Pages { output, force: true }).unwrap();
    }

    #[test]
    fn every_shell_has_a_script_that_knows_the_flags() {
        use clap::ValueEnum;
        for &shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "irori", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("train") && script.contains("nf4-path"), "{shell}");
            let values = matches!(shell, Shell::Bash | Shell::Zsh | Shell::Fish);
            assert!(!values || script.contains("all-turns"), "{shell}: the values of a flag");
        }
    }
}
