//! From text to an expression that can be evaluated: every name exists, nothing is too deep, and what could run away
//! pays for itself.
//!
//! It knows the library's tree and the names of a scope, never a value. The invariant: every call in the tree is one of
//! the functions below with a number of arguments it takes, an operator, or one of `budget`'s.

use super::syntax::{self, excerpt};
use super::{Cel, Compiled, ENV, Mistake, Scope, budget, kinds};
use crate::nearest::nearest;
use ::cel::IdedExpr;
use ::cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SourceInfo, operators};
use std::mem;

/// How deep the tree may be: an operator between three values takes two levels.
const DEPTH_MAX: usize = 96;

/// Names of types: `type(x) == string`.
const TYPES: &[&str] = &["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// A function: its name, how it is called, with how many arguments.
struct Function {
    name: &'static str,
    on_a_value: bool,
    args: &'static [usize],
    usage: &'static str,
}

const fn on(name: &'static str, args: &'static [usize], usage: &'static str) -> Function {
    Function { name, on_a_value: true, args, usage }
}

const fn plain(name: &'static str, args: &'static [usize], usage: &'static str) -> Function {
    Function { name, on_a_value: false, args, usage }
}

const FUNCTIONS: &[Function] = &[
    plain("bool", &[1], "bool(text)"),
    plain("bytes", &[1], "bytes(text)"),
    plain("double", &[1], "double(value)"),
    plain("dyn", &[1], "dyn(value)"),
    plain("has", &[1], "has(map.key)"),
    plain("int", &[1], "int(value)"),
    plain("matches", &[2], "matches(text, pattern)"),
    plain("size", &[1], "size(value)"),
    plain("string", &[1], "string(value)"),
    plain("type", &[1], "type(value)"),
    plain("uint", &[1], "uint(value)"),
    on("all", &[2], "list.all(item, condition)"),
    on("contains", &[1], "text.contains(part)"),
    on("endsWith", &[1], "text.endsWith(end)"),
    on("exists", &[2], "list.exists(item, condition)"),
    on("existsOne", &[2], "list.existsOne(item, condition)"),
    on("exists_one", &[2], "list.exists_one(item, condition)"),
    on("filter", &[2], "list.filter(item, condition)"),
    on("map", &[2, 3], "list.map(item, value)"),
    on("matches", &[1], "text.matches(pattern)"),
    on("size", &[0], "value.size()"),
    on("startsWith", &[1], "text.startsWith(beginning)"),
];

/// Compiles a text.
pub(super) fn compile(text: &str, scope: Scope) -> Result<Compiled, Vec<Mistake>> {
    let parser = ENV.parser().max_recursion_depth(Cel::NESTING_MAX).enable_optional_syntax(false);
    let (mut expr, source) = parser.parse_with_source_info(text).map_err(|errors| syntax::mistakes(text, &errors))?;
    let mut check = Check { text, source: &source, scope, locals: Vec::new(), reads: Vec::new(), mistakes: Vec::new() };
    if depth(&expr) > DEPTH_MAX {
        let message = format!("more than {DEPTH_MAX} operators and calls deep: use a function instead");
        return Err(vec![Mistake { line: 1, column: 1, message }]);
    }
    check.expr(&expr);
    check.whole(&expr);
    let Check { reads, mut mistakes, .. } = check;
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        return Err(mistakes);
    }
    meter(&mut expr, false);
    Ok(Compiled { text: text.to_owned(), depth: depth(&expr), expr, reads })
}

struct Check<'a> {
    text: &'a str,
    source: &'a SourceInfo,
    scope: Scope,
    /// Names of the items of the walks around this place.
    locals: Vec<&'a str>,
    reads: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

impl<'a> Check<'a> {
    fn expr(&mut self, expr: &'a IdedExpr) {
        match &expr.expr {
            Expr::Ident(name) => self.variable(expr.id, name),
            Expr::Call(call) => {
                call.target.iter().for_each(|target| self.expr(target));
                if self.call(expr.id, call) {
                    call.args.iter().for_each(|arg| self.expr(arg));
                }
            }
            Expr::Comprehension(walk) => {
                self.expr(&walk.iter_range);
                self.locals.push(&walk.iter_var);
                self.expr(&walk.loop_step);
                self.locals.pop();
            }
            Expr::Struct(message) => {
                let name = excerpt(&message.type_name, 40);
                self.mistake_before(
                    expr.id,
                    &message.type_name,
                    format!("there is no message type `{name}`: write a map"),
                );
            }
            Expr::Select(select) => {
                self.expr(&select.operand);
                if let Some(kind) = kinds::of(&select.operand, &self.locals).filter(|kind| *kind != "map") {
                    let field = excerpt(&select.field, 40);
                    let hint = match is_input(&select.operand) {
                        true => format!(": did you mean `input_data.{field}`?"),
                        false => String::new(),
                    };
                    let message = format!("{} has no field `{field}`{hint}", syntax::a(kind));
                    self.mistake(self.offset(expr.id), message);
                }
            }
            Expr::List(_) | Expr::Map(_) | Expr::Literal(_) | Expr::Unspecified => {
                children(expr).into_iter().for_each(|child| self.expr(child));
            }
        }
    }

    /// What the expression as a whole gives must be of use where it stands.
    fn whole(&mut self, expr: &IdedExpr) {
        let (wanted, kinds) = self.scope.wanted();
        for (part, kind) in kinds::others(expr, kinds) {
            let hint = if is_input(part) { ": `input_data` is the input as JSON" } else { "" };
            let message = format!("{} must give {wanted}, and this gives {}{hint}", self.scope, syntax::a(kind));
            self.mistake(self.begin(part), message);
        }
    }

    fn variable(&mut self, id: u64, written: &'a str) {
        let name = written.trim_start_matches('.');
        let is_local = self.locals.contains(&written);
        if is_local || name.starts_with('@') || TYPES.contains(&name) {
            return;
        }
        let known = self.scope.variables();
        if let Some(known) = known.iter().find(|known| **known == name) {
            if !self.reads.contains(known) {
                self.reads.push(known);
            }
            return;
        }
        let scope = self.scope;
        let message = match nearest(name, known.iter().chain(&self.locals).copied()) {
            Some(nearest) => format!("{scope} has no variable `{}`; did you mean `{nearest}`?", excerpt(name, 40)),
            None => {
                format!("{scope} has no variable `{}`, only {}", excerpt(name, 40), quoted(known))
            }
        };
        let offset = self.offset(id);
        self.mistake(offset, message);
    }

    /// Whether the arguments may be looked at: those of a walk that is used wrongly refer to items nobody declared.
    fn call(&mut self, id: u64, call: &CallExpr) -> bool {
        let name = call.func_name.as_str();
        let misfit = kinds::misfit(call, &self.locals).map(|kinds| syntax::not_for(name, &kinds));
        if !is_named(call) {
            misfit.into_iter().for_each(|misfit| self.mistake(self.offset(id), misfit));
            return true;
        }
        let named: Vec<_> = FUNCTIONS.iter().filter(|function| function.name == name).collect();
        let fits = |function: &&&Function| function.on_a_value == call.target.is_some();
        let message = match named.iter().find(fits).or(named.first()) {
            Some(function) if fits(&function) && function.args.contains(&call.args.len()) => {
                match misfit {
                    Some(misfit) => self.mistake_before(id, name, misfit),
                    None => self.pattern(call),
                }
                return true;
            }
            Some(function) => format!("`{name}` is used as in `{}`", function.usage),
            None => match nearest(name, FUNCTIONS.iter().map(|function| function.name)) {
                Some(nearest) => format!("there is no function `{}`; did you mean `{nearest}`?", excerpt(name, 40)),
                None => format!("there is no function `{}`", excerpt(name, 40)),
            },
        };
        self.mistake_before(id, name, message);
        named.is_empty()
    }

    /// A pattern that is written out is compiled now.
    fn pattern(&mut self, call: &CallExpr) {
        if call.func_name != "matches" {
            return;
        }
        let Some(Expr::Literal(LiteralValue::String(of))) = call.args.last().map(|arg| &arg.expr) else { return };
        if let Err(problem) = budget::pattern(of.inner()) {
            let offset = call.args.last().and_then(|arg| self.offset(arg.id));
            self.mistake(offset, problem);
        }
    }

    fn offset(&self, id: u64) -> Option<usize> {
        self.source.offset_for(id).map(|(start, _)| start as usize)
    }

    /// Where an expression begins: an operator's own place is behind its first operand.
    fn begin(&self, expr: &IdedExpr) -> Option<usize> {
        match &expr.expr {
            Expr::Call(call) if call.target.is_none() && is_named(call) => self.before(expr.id, &call.func_name),
            Expr::Select(select) if select.test => self.before(expr.id, operators::HAS),
            _ => children(expr).iter().filter_map(|child| self.begin(child)).chain(self.offset(expr.id)).min(),
        }
    }

    /// Where a name is; the tree has the place of the bracket behind it.
    fn before(&self, id: u64, name: &str) -> Option<usize> {
        let bracket = self.offset(id);
        let before = bracket.and_then(|bracket| self.text.get(..bracket));
        before.and_then(|before| before.rfind(name)).or(bracket)
    }

    fn mistake_before(&mut self, id: u64, name: &str, message: String) {
        self.mistake(self.before(id, name), message);
    }

    fn mistake(&mut self, offset: Option<usize>, message: String) {
        let before = offset.and_then(|offset| self.text.get(..offset)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.mistakes.push(Mistake { line, column, message });
    }
}

/// Whether a call is one of a function. Operators have names such as `_+_`, and `@in`.
fn is_named(call: &CallExpr) -> bool {
    call.func_name.chars().all(|letter| letter.is_alphanumeric() || ['_', '.'].contains(&letter))
}

/// The input as text, where perhaps its JSON was meant.
fn is_input(expr: &IdedExpr) -> bool {
    matches!(&expr.expr, Expr::Ident(name) if name.trim_start_matches('.') == "input")
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// What an expression is made of.
fn children(expr: &IdedExpr) -> Vec<&IdedExpr> {
    match &expr.expr {
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(walk) => vec![&walk.iter_range, &walk.loop_step],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => {
            let entries = map.entries.iter().map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                EntryExpr::StructField(field) => vec![&field.value],
            });
            entries.flatten().collect()
        }
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Vec::new(),
    }
}

/// What [`Cel::texts`] gives.
pub(super) fn texts(expr: &IdedExpr) -> Vec<&str> {
    match &expr.expr {
        Expr::Literal(LiteralValue::String(text)) => vec![text.inner()],
        Expr::List(list) => list.elements.iter().flat_map(texts).collect(),
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            call.args.iter().skip(1).flat_map(texts).collect()
        }
        _ => Vec::new(),
    }
}

/// Levels of a tree.
fn depth(expr: &IdedExpr) -> usize {
    1 + children(expr).into_iter().map(depth).max().unwrap_or(0)
}

fn nodes(expr: &IdedExpr) -> usize {
    1 + children(expr).into_iter().map(nodes).sum::<usize>()
}

/// Makes what could run away pay: walks, anything that text or a list is appended to, and in walks also whatever looks at
/// a whole value.
fn meter(expr: &mut IdedExpr, in_walk: bool) {
    match &mut expr.expr {
        Expr::Comprehension(walk) => meter_walk(walk, in_walk),
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|target| meter(target, in_walk));
            call.args.iter_mut().for_each(|arg| meter(arg, in_walk));
            match call.func_name.as_str() {
                operators::ADD if call.args.first().is_some_and(is_result) => {}
                operators::ADD => pay(expr, budget::CHARGE, None),
                _ if !in_walk => {}
                operators::IN => call.args.last_mut().into_iter().for_each(|arg| pay(arg, budget::CHARGE, None)),
                operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS => {
                    call.args.first_mut().into_iter().for_each(|arg| pay(arg, budget::CHARGE, None));
                }
                _ if is_named(call) => {
                    let whole = call.target.as_deref_mut().or(call.args.first_mut());
                    whole.into_iter().for_each(|whole| pay(whole, budget::CHARGE, None));
                }
                _ => {}
            }
        }
        Expr::Select(select) => meter(&mut select.operand, in_walk),
        Expr::List(list) => {
            list.elements.iter_mut().for_each(|element| {
                meter(element, in_walk);
                if in_walk {
                    pay(element, budget::CHARGE, None);
                }
            });
        }
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    meter(&mut entry.key, in_walk);
                    meter(&mut entry.value, in_walk);
                    if in_walk {
                        pay(&mut entry.value, budget::CHARGE, None);
                    }
                }
            }
        }
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn meter_walk(walk: &mut ComprehensionExpr, in_walk: bool) {
    let each = nodes(&walk.loop_step);
    meter(&mut walk.iter_range, in_walk);
    pay(&mut walk.iter_range, budget::WALK, Some(each));
    meter(&mut walk.loop_step, true);
}

/// What a walk has gathered so far, a name that nobody can write.
fn is_result(expr: &IdedExpr) -> bool {
    matches!(&expr.expr, Expr::Ident(name) if name.starts_with('@'))
}

/// Puts a call around an expression, unless it is written out and thus short.
fn pay(expr: &mut IdedExpr, function: &str, each: Option<usize>) {
    if each.is_none() && matches!(expr.expr, Expr::Literal(_)) || is_result(expr) {
        return;
    }
    let id = expr.id;
    let each = each.map(|each| {
        let each = i64::try_from(each).unwrap_or(i64::MAX);
        IdedExpr { id, expr: Expr::Literal(LiteralValue::Int(each.into())) }
    });
    let args = [mem::take(expr)].into_iter().chain(each).collect();
    *expr = IdedExpr { id, expr: Expr::Call(CallExpr { func_name: function.to_owned(), target: None, args }) };
}
