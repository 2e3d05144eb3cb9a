//! How much work an expression may do, and the functions that pay for it.
//!
//! It knows values, never an expression. The invariant: what grows faster than the variables and the expression's text
//! do (a walk within a walk, text appended to itself) is paid for before it goes on, and once the budget is empty
//! everything that costs fails at once.

use ::cel::common::types::{CelBool, CelBytes, CelInt, CelList, CelMap, CelMapKey, CelString};
use ::cel::common::types::{DYN_TYPE, INT_TYPE, STRING_TYPE};
use ::cel::common::value::{CowVal, Val};
use ::cel::{DeclarationError, Env, ExecutionError};
use regex_lite::{Regex, RegexBuilder};
use std::cell::Cell;

/// Pays for a value: one unit for each value in it and each 8 bytes of text.
pub(super) const CHARGE: &str = "@charge";

/// Pays for walking a list, or a map's keys in order: as [`CHARGE`], and for each item what its second argument says.
pub(super) const WALK: &str = "@walk";

/// What any expression may spend. Spending all of it takes a tenth of a second and 100 MB at most, or two seconds in a
/// debug build.
const BASE: u64 = 1_000_000;

/// What it may spend besides, for each unit of its variables: several passes over all of them.
const PER_UNIT: u64 = 16;

/// The size a compiled pattern may have.
const PATTERN_BYTES: usize = 32 << 10;

thread_local! {
    /// What is left to the evaluation that this thread is doing.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Fills the budget for an evaluation with these variables.
pub(super) fn fill<'a, 'v: 'a>(variables: impl Iterator<Item = &'a (dyn Val + 'v)>) {
    let mut left = u64::MAX;
    for variable in variables {
        weigh(variable, &mut left);
    }
    LEFT.set((u64::MAX - left).saturating_mul(PER_UNIT).saturating_add(BASE));
}

/// Whether the budget did not suffice.
pub(super) fn is_spent() -> bool {
    LEFT.get() == 0
}

/// Adds the functions of this module.
pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_overload(CHARGE, CHARGE, vec![DYN_TYPE], charge)?;
    env.add_overload(WALK, WALK, vec![DYN_TYPE, INT_TYPE], walk)?;
    env.add_overload("matches", "matches", vec![STRING_TYPE, STRING_TYPE], matches)?;
    env.add_member_overload("matches", "matches_string", STRING_TYPE, vec![STRING_TYPE], matches)
}

/// Compiles a pattern of `matches`.
pub(super) fn pattern(text: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(text).size_limit(PATTERN_BYTES).build();
    regex.map_err(|error| format!("`matches` cannot use its pattern: {error}"))
}

fn charge<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.swap_remove(0);
    pay(|left| weigh(value.as_ref(), left))?;
    Ok(value)
}

fn walk<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let each = args[1].downcast_ref::<CelInt>().map_or(1, |each| each.inner().unsigned_abs());
    let value = args.swap_remove(0);
    let items = value.as_sizer().map_or(0, |sizer| sizer.size().inner().unsigned_abs());
    pay(|left| {
        *left = left.saturating_sub(items.saturating_mul(each));
        weigh(value.as_ref(), left);
    })?;
    Ok(match value.downcast_ref::<CelMap<'_>>() {
        Some(map) => CowVal::owned(keys(map)),
        None => value,
    })
}

/// The keys of a map in order: walking the map itself would take another order each time.
fn keys<'v>(map: &CelMap<'v>) -> CelList<'v> {
    let mut keys: Vec<_> = map.inner().keys().collect();
    keys.sort();
    CelList::from(keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect::<Vec<_>>())
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = |at: usize| args.get(at).and_then(|arg| arg.downcast_ref::<CelString<'_>>()).map(CelString::inner);
    let (Some(text), Some(of)) = (text(0), text(1)) else {
        return Err(ExecutionError::function_error("matches", "`matches` needs two texts"));
    };
    // Each character is compared with every place in the pattern; before that, the pattern is compiled.
    let (text_units, pattern_units) = (text.len() as u64 / 8 + 1, of.len() as u64 / 8 + 1);
    pay(|left| *left = left.saturating_sub(text_units.saturating_mul(pattern_units) + of.len() as u64 + 16))?;
    let regex = pattern(of).map_err(|problem| ExecutionError::function_error("matches", problem))?;
    Ok(CowVal::owned(CelBool::from(regex.is_match(text))))
}

/// Takes from what is left; an error when that is everything.
fn pay(spend: impl FnOnce(&mut u64)) -> Result<(), ExecutionError> {
    let mut left = LEFT.get();
    if left > 0 {
        spend(&mut left);
        LEFT.set(left);
    }
    if left == 0 { Err(ExecutionError::function_error(CHARGE, "spent")) } else { Ok(()) }
}

/// Takes the weight of a value from `left`, and looks no further when nothing is left.
fn weigh(value: &dyn Val, left: &mut u64) {
    if *left == 0 {
        return;
    }
    let bytes = match (value.downcast_ref::<CelString<'_>>(), value.downcast_ref::<CelBytes<'_>>()) {
        (Some(text), _) => text.inner().len(),
        (_, Some(bytes)) => bytes.inner().len(),
        _ => 0,
    };
    *left = left.saturating_sub(1 + bytes as u64 / 8);
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        list.inner().iter().for_each(|item| weigh(item.as_ref(), left));
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for (key, value) in map.inner() {
            weigh(CelMapKey::inner(key), left);
            weigh(value.as_ref(), left);
        }
    }
}
