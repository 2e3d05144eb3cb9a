//! Where personal data stands in a text: each kind by the marks that people write it with.
//!
//! Digits of any script's full width count as digits, and between digits of one number invisible characters may stand. It
//! must never look at a character more than a fixed number of times: the text is anybody's.

use std::ops::Range;

/// Digits of a payment card.
const CARD_LEN: Range<usize> = 13..20;

/// A kind of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ssn,
    CreditCard,
    Email,
    Phone,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Ssn, Self::CreditCard, Self::Email, Self::Phone];

    /// Its name in `detected_pii`. Agno's.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Ssn => "SSN",
            Kind::CreditCard => "Credit Card",
            Kind::Email => "Email",
            Kind::Phone => "Phone",
        }
    }

    /// Where it stands in the text.
    pub(super) fn find(self, text: &str) -> Vec<Range<usize>> {
        match self {
            Kind::Email => emails(text),
            Kind::Ssn => in_numbers(text, ssn),
            Kind::CreditCard => in_numbers(text, card),
            Kind::Phone => in_numbers(text, phone),
        }
    }
}

/// Digits that belong together: groups, with a few signs between them.
#[derive(Debug, Default)]
struct Number {
    groups: Vec<Group>,
    /// What stands before it.
    before: Option<char>,
}

/// Digits without anything between them.
#[derive(Debug)]
struct Group {
    digits: Vec<u8>,
    range: Range<usize>,
    /// What stands between it and the group before.
    gap: String,
}

/// Signs between the groups of one number, at most: `) ` and the like.
const GAP_MAX: usize = 3;

fn digit(c: char) -> Option<u8> {
    let value = match c {
        '0'..='9' => c as u32 - '0' as u32,
        '\u{ff10}'..='\u{ff19}' => c as u32 - 0xff10,
        '\u{660}'..='\u{669}' => c as u32 - 0x660,
        '\u{6f0}'..='\u{6f9}' => c as u32 - 0x6f0,
        _ => return None,
    };
    u8::try_from(value).ok()
}

fn is_gap(c: char) -> bool {
    c.is_whitespace() && c != '\n' || matches!(c, '-' | '.' | '(' | ')' | '/' | '\u{2010}'..='\u{2015}')
}

/// Looks at each number of the text.
fn in_numbers(text: &str, look: fn(&Number, &mut Vec<Range<usize>>)) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut number = Number::default();
    let (mut gap, mut last) = (String::new(), None);
    for (place, c) in text.char_indices() {
        if is_invisible(c) {
            continue;
        }
        if let Some(digit) = digit(c) {
            let end = place + c.len_utf8();
            match number.groups.last_mut() {
                Some(group) if gap.is_empty() => {
                    group.digits.push(digit);
                    group.range.end = end;
                }
                _ => {
                    if number.groups.is_empty() {
                        number.before = last;
                    }
                    let (digits, range) = (vec![digit], place..end);
                    number.groups.push(Group { digits, range, gap: std::mem::take(&mut gap) });
                }
            }
            gap.clear();
        } else if !number.groups.is_empty() && is_gap(c) && gap.chars().count() < GAP_MAX {
            gap.push(c);
        } else {
            // Digits that go on as a word are no part of it: `a1b2`, `2nd`.
            if gap.is_empty() && c.is_alphanumeric() {
                number.groups.pop();
            }
            if !number.groups.is_empty() {
                look(&number, &mut found);
            }
            number = Number::default();
            gap.clear();
        }
        last = Some(c);
    }
    if !number.groups.is_empty() {
        look(&number, &mut found);
    }
    found
}

impl Number {
    /// Whether it begins inside a word.
    fn is_in_word(&self) -> bool {
        self.before.is_some_and(|before| before.is_alphanumeric() || before == '_')
    }

    fn lens(&self) -> Vec<usize> {
        self.groups.iter().map(|group| group.digits.len()).collect()
    }
}

/// Three digits, two, four.
fn ssn(number: &Number, found: &mut Vec<Range<usize>>) {
    let lens = number.lens();
    let is_joined =
        |group: &Group| group.gap.chars().count() == 1 && !matches!(group.gap.as_str(), "." | "/" | "(" | ")");
    for (place, lens) in lens.windows(3).enumerate() {
        let groups = &number.groups[place..place + 3];
        let starts = place > 0 || !number.is_in_word();
        if lens == [3, 2, 4] && starts && groups[1..].iter().all(is_joined) {
            found.push(groups[0].range.start..groups[2].range.end);
        }
    }
}

/// As many digits as a card has, from the beginning of one group to the end of another, that a card may begin with, and
/// whose last one is right.
fn card(number: &Number, found: &mut Vec<Range<usize>>) {
    let is_joined = |group: &Group| group.gap.chars().all(|c| !matches!(c, '(' | ')' | '/'));
    let mut from = 0;
    while from < number.groups.len() {
        let starts = from > 0 || !number.is_in_word();
        let mut digits: Vec<u8> = Vec::with_capacity(CARD_LEN.end);
        let mut longest = None;
        for (place, group) in number.groups.iter().enumerate().skip(from) {
            if !starts || digits.len() + group.digits.len() >= CARD_LEN.end || place > from && !is_joined(group) {
                break;
            }
            digits.extend(&group.digits);
            if CARD_LEN.contains(&digits.len()) && matches!(digits[0], 2..=6) && is_card(&digits) {
                longest = Some(place);
            }
        }
        if let Some(to) = longest {
            found.push(number.groups[from].range.start..number.groups[to].range.end);
            from = to;
        }
        from += 1;
    }
}

/// Luhn's check.
fn is_card(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(*digit);
            if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Ten digits as they are dialled in North America, with or without the country's, or a number that begins with `+`.
fn phone(number: &Number, found: &mut Vec<Range<usize>>) {
    let lens = number.lens();
    let mut place = 0;
    if number.before == Some('+')
        && let Some(last) = international(&number.groups)
    {
        found.push(number.groups[0].range.start..number.groups[last].range.end);
        place = last + 1;
    }
    let dialled = |group: &Group| matches!(group.digits[0], 2..=9);
    while place < lens.len() {
        let starts = place > 0 || !number.is_in_word();
        let len = match &lens[place..] {
            [3, 3, 4, ..] => 3,
            [3, 7, ..] | [6, 4, ..] => 2,
            [10, ..] => 1,
            _ => 0,
        };
        if len > 0 && starts && dialled(&number.groups[place]) {
            found.push(number.groups[place].range.start..number.groups[place + len - 1].range.end);
            place += len - 1;
        }
        place += 1;
    }
}

/// Where a number after a `+` ends: at its 15th digit at the latest, and once it has 8 of them, wherever more than one
/// sign comes between.
fn international(groups: &[Group]) -> Option<usize> {
    let (mut digits, mut end) = (0, None);
    for (place, group) in groups.iter().enumerate() {
        let is_apart = end.is_some() && group.gap.chars().nth(1).is_some();
        digits += group.digits.len();
        if is_apart || digits > 15 {
            break;
        }
        end = (digits >= 8).then_some(place);
    }
    end
}

/// A name, an @, and a domain of at least two parts.
fn emails(text: &str) -> Vec<Range<usize>> {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '%' | '+' | '-' | '\'') || is_invisible(c);
    let is_domain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-') || is_invisible(c);
    let mut found = Vec::new();
    for (at, _) in text.match_indices(['@', '\u{ff20}']) {
        let sign = if text.as_bytes()[at] == b'@' { 1 } else { '\u{ff20}'.len_utf8() };
        let name = text[..at].trim_end_matches(is_name);
        let domain = &text[at + sign..];
        let end = domain.find(|c: char| !is_domain(c)).unwrap_or(domain.len());
        let domain = domain[..end].trim_end_matches(['.', '-']);
        let has_name = text[name.len()..at].chars().any(char::is_alphanumeric);
        let top = domain.rsplit_once('.').filter(|(rest, _)| rest.chars().any(char::is_alphanumeric));
        let is_top = |top: &str| top.chars().count() >= 2 && top.chars().any(char::is_alphabetic);
        if has_name && top.is_some_and(|(_, top)| is_top(top)) {
            found.push(name.len()..at + sign + domain.len());
        }
    }
    found
}

/// Characters that nobody sees: joiners, direction marks, soft hyphens.
pub(super) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}
