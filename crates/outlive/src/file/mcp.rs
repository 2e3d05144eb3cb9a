//! MCP servers: as a file describes them under `tools`, or a program's settings under names of one's own.
//!
//! It must never start or ask one. The invariant: a description holds no secret, only the names of the variables that do.

use super::build::out_of_place::out_of_place;
use super::syntax::Named;
use super::yaml;
use outlive_agent::outbound::Outbound;
use outlive_agent::tool::MCPTools;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An MCP server: a program or an address
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct McpProfile {
    /// A program and its arguments, without a shell, that speaks MCP on its standard input and output; needs
    /// --allow-commands
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Environment variables that the program is given besides PATH, HOME and the like
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// An address, for streamable HTTP
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Headers; `${env:NAME}` stands for an environment variable
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub headers: Named<String>,
}

impl McpProfile {
    /// Its tools, for calls of these addresses.
    ///
    /// # Errors
    /// What it says too much or too little, in words.
    pub fn tools(&self, outbound: &Outbound) -> Result<MCPTools, String> {
        let Self { command, env, url, headers } = self;
        match url {
            Some(_) if !command.is_empty() || !env.is_empty() => {
                Err("it has a command and an address: leave one of them".to_owned())
            }
            None if command.is_empty() => {
                Err("it says no server: write `command: [PROGRAM]` or `url: ADDRESS`".to_owned())
            }
            None if !headers.is_empty() => Err("a program is sent no headers: leave them out".to_owned()),
            None => Ok(MCPTools::stdio(command).env(env)),
            Some(url) => {
                let tools = MCPTools::http(url).outbound(outbound.clone());
                Ok(headers.iter().fold(tools, |tools, (name, value)| tools.header(name, value)))
            }
        }
    }

    /// What is wrong with it wherever it is used: what it says too much or too little, and secrets in it.
    pub fn problems(&self) -> Vec<String> {
        let text = serde_json::to_string(self).expect("it has text for keys");
        let secrets = yaml::read(&text).map(|(node, _)| out_of_place(&node, &text)).unwrap_or_default();
        let shape = self.tools(&Outbound::default()).err();
        shape.into_iter().chain(secrets.into_iter().map(|misread| misread.message)).collect()
    }

    /// What it lacks here: variables that are not set, addresses that may not be asked.
    pub fn lacks(&self, outbound: &Outbound) -> Vec<String> {
        self.tools(outbound).map_or_else(|problem| vec![problem], |tools| tools.problems())
    }
}
