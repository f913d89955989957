//! Bounds the work of an evaluation.
//!
//! The interpreter has no bound of its own, and cannot be interrupted. So the syntax tree is
//! rewritten once, when it is compiled: whatever can cost more than a fixed amount goes through a
//! function of ours first, which counts it and fails when [`super::MAX_STEPS`] is used up. Their
//! names start with `@`, which nobody can write.

use super::pattern::{MAX_PATTERN_PARTS, TOO_LARGE, parts};
use super::{MAX_STEPS, scope};
use cel::common::types::{CelBytes, CelDouble, CelInt, CelList, CelMap, CelString, Kind};
use cel::common::value::{CowVal, Val};
use cel::{Context, DeclarationError, ExecutionError, FunctionContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Counts a value that only its own length can make expensive.
pub(super) const FLAT: &str = "@flat";
/// Counts a value with all that is in it, before it is copied or compared.
pub(super) const DEEP: &str = "@deep";
/// Counts the right side of `+`, and refuses a map there: the interpreter would add its keys to a
/// list, in any order.
pub(super) const ADDEND: &str = "@addend";
/// Counts what `in` has to look through.
pub(super) const SEARCH: &str = "@search";
/// Refuses what cannot be an index: the interpreter would copy the list into its error.
pub(super) const KEY: &str = "@key";
/// Counts a loop: `@each(range, size of the body)`. A map becomes the sorted list of its keys.
pub(super) const EACH: &str = "@each";
/// `matches`, with a bound on the pattern.
pub(super) const MATCHES: &str = "@matches";

/// Text of this length counts as much as one value.
pub(super) const BYTES_PER_STEP: usize = 32;

/// What is left of the work an evaluation may do. Below zero, it was too much.
pub(super) struct Meter(AtomicI64);

type Outcome<'c, 'v> = Result<CowVal<'c, 'v>, ExecutionError>;
type Native =
    Box<dyn for<'c, 'v> Fn(&mut FunctionContext<'c, 'v>) -> Outcome<'c, 'v> + Send + Sync>;

/// What a function does with its one argument before it returns it.
type Check = fn(&Meter, &mut FunctionContext<'_, '_>) -> Result<(), ExecutionError>;

impl Meter {
    /// A meter with all of [`MAX_STEPS`] left.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(MAX_STEPS as i64)))
    }

    /// Whether more was asked for than was left. `||`, `exists` and the like pass over errors: the
    /// result says nothing.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) < 0
    }

    fn charge(&self, steps: u64) -> Result<(), ExecutionError> {
        let left = self.0.load(Ordering::Relaxed);
        let left = if left < 0 {
            left
        } else {
            left.saturating_sub_unsigned(steps)
        };
        self.0.store(left, Ordering::Relaxed);
        if left < 0 {
            return Err(ExecutionError::function_error("@meter", "exhausted"));
        }
        Ok(())
    }

    /// Adds the functions of this module to `context`.
    pub(super) fn install(
        self: &Arc<Self>,
        context: &mut Context<'_, '_>,
    ) -> Result<(), DeclarationError> {
        let functions: [(&str, Check); 5] = [
            (FLAT, |meter, call| meter.charge(flat(argument(call, 0)?))),
            (DEEP, |meter, call| meter.charge(deep(argument(call, 0)?))),
            (ADDEND, |meter, call| {
                check_addend(argument(call, 0)?)?;
                meter.charge(deep(argument(call, 0)?))
            }),
            (SEARCH, |meter, call| {
                meter.charge(search(argument(call, 0)?))
            }),
            (KEY, |_, call| check_key(argument(call, 0)?)),
        ];
        for (name, check) in functions {
            let meter = Arc::clone(self);
            let function: Native = Box::new(move |call| {
                check(&meter, call)?;
                take(call, 0)
            });
            context.add_function(name, function)?;
        }
        let meter = Arc::clone(self);
        let each: Native = Box::new(move |call| meter.each(call));
        context.add_function(EACH, each)?;
        let meter = Arc::clone(self);
        let matches: Native = Box::new(move |call| meter.matches(call));
        context.add_function(MATCHES, matches)
    }

    fn each<'c, 'v>(&self, call: &mut FunctionContext<'c, 'v>) -> Outcome<'c, 'v> {
        let body = argument(call, 1)?
            .downcast_ref::<CelInt>()
            .map_or(1, |size| *size.inner());
        let range = argument(call, 0)?;
        let length = match (
            range.downcast_ref::<CelList>(),
            range.downcast_ref::<CelMap>(),
        ) {
            (Some(list), _) => list.len(),
            (_, Some(map)) => map.len(),
            _ => {
                let message = format!("needs a list or a map, not a {}", range.get_type().name());
                return Err(ExecutionError::function_error(
                    "a loop (all, exists, filter, map)",
                    message,
                ));
            }
        };
        self.charge(
            deep(range).saturating_add((length as u64).saturating_mul(body.unsigned_abs())),
        )?;
        let range = take(call, 0)?;
        match range.downcast_ref::<CelMap>() {
            Some(map) => Ok(CowVal::owned(sorted_keys(map))),
            None => Ok(range),
        }
    }

    fn matches<'c, 'v>(&self, call: &mut FunctionContext<'c, 'v>) -> Outcome<'c, 'v> {
        if let (Some(text), Some(pattern)) = (
            argument(call, 0)?.downcast_ref::<CelString>(),
            argument(call, 1)?.downcast_ref::<CelString>(),
        ) {
            let parts = parts(pattern.inner());
            if parts > MAX_PATTERN_PARTS {
                return Err(ExecutionError::function_error("matches", TOO_LARGE));
            }
            // The pattern is compiled for every call; the worst search visits every part for every
            // byte.
            let search = (text.inner().len() as u64).saturating_mul(parts) / 1000;
            self.charge(50 + 5 * parts + search + flat(text))?;
        }
        let arguments = std::mem::take(&mut call.args);
        match scope::environment().find_overload("matches", &arguments) {
            Some(matches) => matches(arguments),
            None => {
                let types = arguments
                    .iter()
                    .map(|argument| argument.get_type().name().to_owned());
                Err(ExecutionError::no_such_overload("matches", types.collect()))
            }
        }
    }
}

fn argument<'a, 'v>(
    call: &'a FunctionContext<'_, 'v>,
    index: usize,
) -> Result<&'a (dyn Val + 'v), ExecutionError> {
    let argument = call.args.get(index).map(|argument| argument.as_ref());
    argument.ok_or_else(|| ExecutionError::invalid_argument_count(index + 1, call.args.len()))
}

/// Moves an argument out of the call.
fn take<'c, 'v>(call: &mut FunctionContext<'c, 'v>, index: usize) -> Outcome<'c, 'v> {
    let count = call.args.len();
    let argument = call.args.get_mut(index);
    let argument =
        argument.ok_or_else(|| ExecutionError::invalid_argument_count(index + 1, count))?;
    Ok(std::mem::replace(
        argument,
        CowVal::Borrowed(&cel::common::types::CelNull),
    ))
}

fn flat(value: &dyn Val) -> u64 {
    let bytes = match value.downcast_ref::<CelString>() {
        Some(text) => text.inner().len(),
        None => value
            .downcast_ref::<CelBytes>()
            .map_or(0, |bytes| bytes.inner().len()),
    };
    1 + (bytes / BYTES_PER_STEP) as u64
}

fn deep(value: &dyn Val) -> u64 {
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.iter().fold(1, |sum, item| sum + deep(item.as_ref()));
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        return map.iter().fold(1, |sum, (key, value)| {
            sum + flat(key.inner()) + deep(value.as_ref())
        });
    }
    flat(value)
}

fn search(value: &dyn Val) -> u64 {
    match value.downcast_ref::<CelList>() {
        Some(_) => deep(value),
        None => flat(value),
    }
}

fn check_addend(value: &dyn Val) -> Result<(), ExecutionError> {
    match value.get_type().kind() {
        Kind::Map => Err(ExecutionError::function_error(
            "`+`",
            "a map cannot be added to anything",
        )),
        _ => Ok(()),
    }
}

fn check_key(value: &dyn Val) -> Result<(), ExecutionError> {
    let usable = match value.get_type().kind() {
        Kind::Int | Kind::UInt | Kind::String | Kind::Boolean => true,
        Kind::Double => value
            .downcast_ref::<CelDouble>()
            .is_some_and(|value| value.inner().fract() == 0.0),
        _ => false,
    };
    if usable {
        return Ok(());
    }
    let message = format!(
        "`[…]` takes an int or a string, not a {}",
        value.get_type().name()
    );
    Err(ExecutionError::function_error("index", message))
}

fn sorted_keys<'v>(map: &CelMap<'v>) -> CelList<'v> {
    let mut keys: Vec<_> = map.keys().collect();
    keys.sort();
    let keys = keys.into_iter().map(|key| key.inner().clone_as_boxed());
    CelList::from(keys.collect::<Vec<_>>())
}
