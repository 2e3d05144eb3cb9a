//! `outlive completions` and `outlive man`: for shells and for readers of manuals.
//!
//! Both are made from the arguments, so neither can say anything else than `--help`. What only the database knows, such as the
//! ids of runs, the scripts for bash, zsh and fish ask `outlive complete` for.

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

/// In bash, `@` and the like begin a word of their own, so only what comes after them is offered.
const BASH: &str = r#"
_outlive_named() {
    local line=${COMP_LINE:0:COMP_POINT} names
    names=$(outlive complete "$line" 2>/dev/null)
    if [[ -z $names ]]; then
        _outlive "$@"
        return
    fi
    local word=${line##*[[:space:]]}
    local kept=${word%"${COMP_WORDS[COMP_CWORD]}"}
    mapfile -t COMPREPLY <<<"$names"
    COMPREPLY=("${COMPREPLY[@]#"$kept"}")
}
complete -F _outlive_named -o nosort -o bashdefault -o default outlive
"#;

const ZSH: &str = r#"
_outlive_named() {
    local -a names
    names=(${(f)"$(outlive complete "$LBUFFER" 2>/dev/null)"})
    if (( $#names )); then compadd -- $names; else _outlive "$@"; fi
}
compdef _outlive_named outlive
"#;

const FISH: &str = "\ncomplete -c outlive -a '(outlive complete (commandline -cp) 2>/dev/null)'\n";

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
        text.extend_from_slice(match self.shell {
            Shell::Bash => BASH.as_bytes(),
            Shell::Zsh => ZSH.as_bytes(),
            Shell::Fish => FISH.as_bytes(),
            _ => b"",
        });
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
