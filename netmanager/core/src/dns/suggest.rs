//! The known name that a misspelt one was most likely meant to be.
//!
//! Only for people, in `netmanager dig`: no query is ever answered with a guess.

use weald_proto::name::ServiceName;

use super::resolve::View;

/// How many services are compared before giving up: an explanation must not take seconds.
const MAX_COMPARED: usize = 10_000;

/// The most similar service that the caller may see; none when nothing is similar.
pub(crate) fn nearest(asked: &ServiceName, view: &View<'_>) -> Option<String> {
    let text = asked.to_string();
    // A third of the letters wrong is no longer a slip.
    let limit = (text.len() / 3).max(1);
    view.table
        .services()
        .filter(|(_, service)| service.organisation == view.organisation)
        .take(MAX_COMPARED)
        .map(|(_, service)| {
            let known = service.name.to_string();
            (distance(&text, &known), known)
        })
        .min()
        .filter(|(distance, _)| *distance <= limit)
        .map(|(_, known)| known)
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour to make
/// one text of the other (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let width = to.len() + 1;
    let mut before_last: Vec<usize> = vec![0; width];
    let mut last: Vec<usize> = (0..width).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut current = Vec::with_capacity(width);
        current.push(row + 1);
        for (column, other) in to.iter().enumerate() {
            let changed = last[column] + usize::from(letter != other);
            let mut best = changed.min(last[column + 1] + 1).min(current[column] + 1);
            let swapped =
                row > 0 && column > 0 && from[row - 1] == *other && to[column - 1] == *letter;
            if swapped {
                best = best.min(before_last[column - 1] + 1);
            }
            current.push(best);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[width - 1]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_slips() {
        for (from, to, expected) in [
            ("", "", 0),
            ("web", "web", 0),
            ("web", "wbe", 1),
            ("web", "wb", 1),
            ("web", "webb", 1),
            ("web", "wab", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }
}
