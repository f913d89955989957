//! How large a regular expression becomes when it is compiled.

use super::error::shorten;
use super::scope::environment;
use cel::common::types::CelString;
use cel::common::value::CowVal;

/// How large a pattern of `matches` may be, in parts; it then takes some ten milliseconds to
/// compile. A few bytes such as `(a{999}){999}` can stand for megabytes.
pub(super) const MAX_PATTERN_PARTS: u64 = 20_000;

/// What is said of a larger one.
pub(super) const TOO_LARGE: &str = "the pattern is too large";

/// A class of many Unicode ranges, such as `\w` or `\p{L}`: it takes as long to compile as this
/// many plain characters.
const LARGE_CLASS: u64 = 500;
/// A class of some dozens of Unicode ranges, such as `\d`.
const SMALL_CLASS: u64 = 70;
/// Any character but a few: `.` and `[^a]`.
const ANY: u64 = 8;

/// Says what is wrong with a pattern that stands in the expression itself, if anything is.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    let shown = shorten(pattern, 60);
    if parts(pattern) > MAX_PATTERN_PARTS {
        return Err(format!("{TOO_LARGE}: `{shown}`"));
    }
    let arguments = vec![
        CowVal::owned(CelString::from("")),
        CowVal::owned(CelString::from(pattern)),
    ];
    match environment()
        .find_overload("matches", &arguments)
        .map(|matches| matches(arguments))
    {
        Some(Err(_)) => Err(format!("`{shown}` is not a regular expression")),
        _ => Ok(()),
    }
}

/// An upper bound of the parts that `pattern` stands for once every `{n}` is written out.
///
/// A repetition of a single character or class adds its count; one that follows a group or another
/// repetition multiplies all the rest, which is more than it really does.
pub(super) fn parts(pattern: &str) -> u64 {
    let mut total = 0u64;
    let mut factor = 1u64;
    let mut weight = 1u64;
    let mut bracket = 0u64;
    let mut previous = ' ';
    for (at, c) in pattern.char_indices() {
        if c != '{' {
            weight = if c == ']' {
                1 + total.saturating_sub(bracket)
            } else {
                part(previous, c)
            };
            bracket = if c == '[' { total } else { bracket };
            total = total.saturating_add(part(previous, c));
        } else if let Some(count) = repetition(&pattern[at + 1..]) {
            if repeats_a_whole(previous) {
                factor = factor.saturating_mul(count.max(1));
            } else {
                total = total.saturating_add(count.saturating_mul(weight));
            }
        }
        previous = c;
    }
    total.saturating_mul(factor)
}

/// What `c` weighs after `previous`.
fn part(previous: char, c: char) -> u64 {
    match (previous, c) {
        ('\\', 'w' | 'W' | 'p' | 'P') => LARGE_CLASS,
        ('\\', 'd' | 'D' | 's' | 'S' | 'b' | 'B') => SMALL_CLASS,
        ('[', '^') | (_, '.') => ANY,
        _ if !c.is_ascii() => ANY,
        _ => 1,
    }
}

/// Whether a repetition after `previous` may repeat more than one part: after a group or a
/// repetition, or (with the `x` flag) after a space or a comment.
fn repeats_a_whole(previous: char) -> bool {
    matches!(previous, ')' | '}' | '*' | '+' | '?') || previous.is_whitespace()
}

/// The largest number in `n}`, `n,}` or `n,m}` at the start of `text`.
fn repetition(text: &str) -> Option<u64> {
    let (inside, _) = text.split_once('}')?;
    let number = |text: &str| text.trim().parse().unwrap_or(0);
    inside.split(',').map(number).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::name("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    #[case::uuid("^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    #[case::address(r"^(\d{1,3}\.){3}\d{1,3}$")]
    #[case::date(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$")]
    #[case::property(r"^\p{Lu}\p{L}*$")]
    fn usual_patterns_are_small(#[case] pattern: &str) {
        assert!(parts(pattern) < MAX_PATTERN_PARTS / 2, "{}", parts(pattern));
    }

    #[rstest]
    #[case("(a{999}){999}")]
    #[case("a{999}{999}")]
    #[case("(?x)(a{999}) {999}")]
    #[case(r"\w{50}")]
    #[case(r"[-\w]{50}")]
    #[case(r"[]\pL]{50}")]
    #[case("((((a{9}){9}){9}){9}){9}")]
    #[case("a{99999999999999999999}{9}{9}{9}{9}{9}{9}{9}{9}")]
    fn repetitions_count_for_what_they_stand_for(#[case] pattern: &str) {
        let bounded = parts(pattern) > MAX_PATTERN_PARTS || pattern.contains("99999999");
        assert!(bounded, "{}", parts(pattern));
    }
}
