//! Tools that are listed when an agent begins: asked for once, recorded before its first turn, and offered the same by
//! every process that resumes it.
//!
//! It must never know who lists them or how. Invariant: what is in the log is offered, whatever the sources say by then.

use super::{Drive, halted, read, result};
use crate::tool::{Listing, Tool, orphan};
use futures::future::{Either, select, try_join_all};
use outlive_core::machine::DELEGATE_TOOL;
use outlive_core::port::{Halt, Recall};
use outlive_core::{EventKind, Failure};
use serde_json::json;
use std::collections::BTreeSet;

impl Drive<'_> {
    /// The tool of this name.
    pub(super) fn tool(&self, name: &str) -> Option<&Tool> {
        let listed = || self.listed.iter().find(|tool| tool.spec().name == name);
        self.profile.tool(name).or_else(listed)
    }

    /// Adds the tools that its sources list, or listed when it began.
    pub(super) async fn list_tools(&mut self) -> Result<(), Failure> {
        let key = self.key("tools");
        let listings: Vec<Listing> = match self.effects().recall(&key) {
            Recall::Done(value) => read(&key, &value)?,
            Recall::Nothing | Recall::Started | Recall::Run(_) => {
                let listings = self.ask_sources().await?;
                self.tell(told(&listings), Some(result(key, &listings)));
                listings
            }
        };
        let tools = listings.iter().flat_map(|listing| {
            let source = self.profile.sources().find(|source| source.name() == listing.source);
            listing.tools.iter().map(move |listed| match source {
                Some(source) => source.tool(listed),
                None => orphan(listed, &listing.source),
            })
        });
        self.listed = tools.collect();
        self.specs.extend(self.listed.iter().map(|tool| tool.spec().clone()));
        Ok(())
    }

    /// What the sources list now, under names that are not taken.
    async fn ask_sources(&self) -> Result<Vec<Listing>, Failure> {
        let asking = try_join_all(self.profile.sources().map(|source| source.list()));
        let mut listings = match select(asking, self.effects().halted()).await {
            Either::Left((listings, _)) => listings?,
            Either::Right(_) => return Err(halted(Halt)),
        };
        let own = self.specs.iter().map(|spec| spec.name.clone());
        let mut taken: BTreeSet<String> = own.chain([DELEGATE_TOOL.to_owned()]).collect();
        listings.iter_mut().flat_map(|listing| &mut listing.tools).for_each(|tool| tool.name_among(&mut taken));
        Ok(listings)
    }
}

/// What people see of it.
fn told(listings: &[Listing]) -> EventKind {
    let line = |listing: &Listing| {
        let names: Vec<_> = listing.tools.iter().map(|tool| tool.spec().name).collect();
        json!({ "server": listing.source, "hash": listing.hash, "tools": names })
    };
    let servers: Vec<_> = listings.iter().map(line).collect();
    let fields = json!({ "name": "ToolsListed", "servers": servers });
    EventKind::CustomEvent { fields: fields.as_object().cloned().unwrap_or_default() }
}
