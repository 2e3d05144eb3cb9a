//! What the steps of a run gave back, by name, in the order in which they ended.
//!
//! It must never know who looks. The invariant: copying takes no time, however many there are.

use crate::step::StepOutput;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// Outputs by step name. Copying it takes no time, however many there are; a copy does not see what is added later.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    by_name: rpds::RedBlackTreeMapSync<Arc<str>, (u32, Arc<StepOutput>)>,
    /// The number of the next one.
    next: u32,
}

impl Outputs {
    /// The output of the step of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<StepOutput>> {
        self.by_name.get(name).map(|(_, output)| output)
    }

    /// Whether a step of this name has ended.
    pub fn contains_key(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The last output that a step of this name gave back.
    pub fn insert_mut(&mut self, name: Arc<str>, output: Arc<StepOutput>) {
        self.by_name.insert_mut(name, (self.next, output));
        self.next += 1;
    }

    /// Names and outputs, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<StepOutput>)> {
        self.by_name.iter().map(|(name, (_, output))| (name, output))
    }

    /// The names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// Names and outputs, in the order in which the steps ended.
    pub fn in_order(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<StepOutput>)> {
        let mut all: Vec<_> = self.by_name.iter().collect();
        all.sort_by_key(|(_, (number, _))| *number);
        all.into_iter().map(|(name, (_, output))| (name, output))
    }
}

impl PartialEq for Outputs {
    fn eq(&self, other: &Self) -> bool {
        self.in_order().eq(other.in_order())
    }
}

impl FromIterator<(Arc<str>, Arc<StepOutput>)> for Outputs {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Arc<StepOutput>)>>(outputs: T) -> Self {
        let mut all = Self::default();
        outputs.into_iter().for_each(|(name, output)| all.insert_mut(name, output));
        all
    }
}

impl Serialize for Outputs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.in_order())
    }
}

impl<'de> Deserialize<'de> for Outputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Outputs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outputs by the names of their steps")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Outputs, A::Error> {
                let mut outputs = Outputs::default();
                while let Some((name, output)) = entries.next_entry()? {
                    outputs.insert_mut(name, output);
                }
                Ok(outputs)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
