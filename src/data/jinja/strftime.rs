//! `strftime_now`: the local time as Python's `datetime.now().strftime(…)` writes it in the C locale.

use super::fault::{Fault, Outcome};
use jiff::civil::DateTime;

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The local time now, without its zone, as `datetime.now()` has it.
pub fn now() -> DateTime {
    jiff::Zoned::now().datetime()
}

/// `time.strftime(format)`.
///
/// # Errors
/// A code that Python's documentation does not have and the C library of Linux neither.
pub fn strftime(time: DateTime, format: &str) -> Outcome<String> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = chars.next();
        // `%-d` has no padding, `%_d` spaces, `%0d` zeros, `%^b` upper case: flags of the C library.
        let flag = code.filter(|c| "-_0^#".contains(*c));
        if flag.is_some() {
            code = chars.next();
        }
        let unknown = || Fault::unsupported(format!("the code %{} of strftime", code.unwrap_or(' ')));
        let code = code.ok_or_else(unknown)?;
        match (field(time, code).ok_or_else(unknown)?, flag) {
            (Field::Text(text), None) => out.push_str(&text),
            (Field::Text(text), Some('^')) => out.push_str(&text.to_uppercase()),
            (Field::Number(n, width, pad), flag) => {
                let pad = match flag {
                    Some('-') => None,
                    Some('_') => Some(' '),
                    Some('0') => Some('0'),
                    _ => Some(pad),
                };
                let digits = n.to_string();
                if let Some(pad) = pad {
                    out.extend(std::iter::repeat_n(pad, width.saturating_sub(digits.len())));
                }
                out.push_str(&digits);
            }
            _ => return Err(unknown()),
        }
    }
    Ok(out)
}

enum Field {
    Text(String),
    /// A number, its width, and what fills it.
    Number(i64, usize, char),
}

fn field(time: DateTime, code: char) -> Option<Field> {
    let number = |n: i64, width: usize| Some(Field::Number(n, width, '0'));
    let spaced = |n: i64| Some(Field::Number(n, 2, ' '));
    let text = |s: &str| Some(Field::Text(s.to_owned()));
    let written = |format: &str| strftime(time, format).ok().map(Field::Text);
    let (hour, minute, second) = (i64::from(time.hour()), i64::from(time.minute()), i64::from(time.second()));
    let (year, month, day) = (i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
    let twelve = (hour + 11) % 12 + 1;
    let year_day = i64::from(time.day_of_year());
    let weekday = time.weekday();
    let (sunday, monday) = (i64::from(weekday.to_sunday_zero_offset()), i64::from(weekday.to_monday_zero_offset()));
    let iso = time.date().iso_week_date();
    match code {
        'a' => text(&DAYS[monday as usize][..3]),
        'A' => text(DAYS[monday as usize]),
        'w' => number(sunday, 1),
        'u' => number(monday + 1, 1),
        'd' => number(day, 2),
        'e' => spaced(day),
        'b' | 'h' => text(&MONTHS[month as usize - 1][..3]),
        'B' => text(MONTHS[month as usize - 1]),
        'm' => number(month, 2),
        'y' => number(year % 100, 2),
        'Y' => number(year, 1),
        'C' => number(year / 100, 2),
        'G' => number(i64::from(iso.year()), 1),
        'g' => number(i64::from(iso.year()) % 100, 2),
        'V' => number(i64::from(iso.week()), 2),
        'H' => number(hour, 2),
        'k' => spaced(hour),
        'I' => number(twelve, 2),
        'l' => spaced(twelve),
        'p' => text(if hour < 12 { "AM" } else { "PM" }),
        'P' => text(if hour < 12 { "am" } else { "pm" }),
        'M' => number(minute, 2),
        'S' => number(second, 2),
        'f' => number(i64::from(time.subsec_nanosecond()) / 1000, 6),
        // A time without a zone has neither offset nor name.
        'z' | 'Z' => text(""),
        'j' => number(year_day, 3),
        'U' => number((year_day + 6 - sunday) / 7, 2),
        'W' => number((year_day + 6 - monday) / 7, 2),
        'c' => written("%a %b %e %H:%M:%S %Y"),
        'x' | 'D' => written("%m/%d/%y"),
        'X' | 'T' => written("%H:%M:%S"),
        'F' => written("%Y-%m-%d"),
        'R' => written("%H:%M"),
        'r' => written("%I:%M:%S %p"),
        'n' => text("\n"),
        't' => text("\t"),
        '%' => text("%"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::Weekday;

    #[test]
    fn weeks_are_counted_as_c_counts_them() {
        let time = DateTime::constant(2024, 12, 30, 15, 4, 5, 6_000);
        assert_eq!(time.weekday(), Weekday::Monday);
        assert_eq!(
            strftime(time, "%a %w %u %U %W %V %G %j %I%p %f %-d %e").unwrap(),
            "Mon 1 1 52 53 01 2025 365 03PM 000006 30 30"
        );
        assert!(strftime(time, "%Q").is_err() && strftime(time, "%").is_err());
    }
}
