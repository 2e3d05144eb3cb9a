//! `outlive config`: which settings are in effect, and why.

use super::doctor::mcp_server;
use crate::cli::Global;
use crate::exit::{Exit, Problem};
use crate::output;
use crate::settings::{Settings, TABLE};
use crate::style::DIM;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

/// Show settings
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
}

/// Show every setting in effect here
///
/// In order of precedence: flags, environment variables, outlive.toml (in this directory or one above), the user's own
/// file (outlive/config.toml in $XDG_CONFIG_HOME or ~/.config), defaults. A setting's variable is its name in capitals:
/// OUTLIVE_LIMITS_BODY_BYTES_MAX for limits.body_bytes_max; .env beside outlive.toml is read too. Secrets are not
/// settings and are never shown.
#[derive(Debug, Args)]
struct Show {
    /// Where each value came from
    #[arg(long)]
    origin: bool,
}

impl Config {
    pub(crate) fn run(&self, global: &Global) -> Result<Exit, Problem> {
        let Verb::Show(show) = &self.verb;
        let mut settings = Settings::load(global)?;
        let mut document = Map::new();
        for setting in TABLE {
            let origin = settings.origin(setting.name).to_string();
            let place = (setting.place)(&mut settings);
            if global.json {
                document.insert(setting.name.to_owned(), show.json(place.json(), &origin));
                continue;
            }
            let line = format!("{} = {}", setting.name, crate::style::line(&place.shown(), 200));
            let remark = if show.origin { origin } else { setting.about.to_owned() };
            output::line(format_args!("{line:<48} {DIM}# {remark}{DIM:#}"))?;
        }
        for (name, profile) in &settings.models.0 {
            let name = format!("models.{name}");
            if global.json {
                document.insert(name, json!(profile));
            } else {
                let line = format!("{name} = {}", crate::style::line(&profile.model, 200));
                output::line(format_args!("{line:<48} {DIM}# a model under a name of your own{DIM:#}"))?;
            }
        }
        for (name, server) in &settings.servers {
            let name = format!("mcp.{name}");
            if global.json {
                document.insert(name, json!(server));
            } else {
                let line = format!("{name} = {}", mcp_server(server));
                output::line(format_args!("{line:<48} {DIM}# an MCP server under a name of your own{DIM:#}"))?;
            }
        }
        if global.json {
            output::json(&Value::Object(document))?;
        }
        Ok(Exit::Done)
    }
}

impl Show {
    fn json(&self, value: Value, origin: &str) -> Value {
        if self.origin { json!({ "value": value, "origin": origin }) } else { value }
    }
}
