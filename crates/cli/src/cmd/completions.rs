//! `outlive completions` and `outlive man`: for shells and for readers of manuals.
//!
//! Both are made from the arguments, so neither can say anything else than `--help`.

use crate::cli::Cli;
use crate::exit::{Exit, Problem};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::{self, Write};

/// Print completions for a shell
///
/// For example: outlive completions bash > ~/.local/share/bash-completion/completions/outlive
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL", hide_possible_values = true)]
    shell: Shell,
}

/// Print a manual page
///
/// For example: outlive man run | man -l -
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The verb, and the verb under it; the page about all of them unless named
    #[arg(value_name = "VERB")]
    verbs: Vec<String>,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<Exit, Problem> {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "outlive", &mut text);
        io::stdout().write_all(&text)?;
        Ok(Exit::Done)
    }
}

impl Man {
    pub(crate) fn run(&self) -> Result<Exit, Problem> {
        let mut root = Cli::command();
        root.build();
        let mut command = &root;
        for verb in &self.verbs {
            let unknown =
                || Problem::new(Exit::Usage, "usage", format!("there is no verb {verb:?}")).hint("see: outlive --help");
            command = command.find_subcommand(verb).ok_or_else(unknown)?;
        }
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        io::stdout().write_all(&page)?;
        Ok(Exit::Done)
    }
}
