//! Follows a choice, to explain it. The choice itself is the same code, so an explanation cannot differ from it.

/// What narrows the members to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Narrowing {
    /// The policy splits the traffic, and this version was drawn.
    Version,
    /// No member of the drawn version can be chosen, so another version was drawn.
    OtherVersion,
    /// The preferred zone.
    Zone,
    /// The zone has too few members that can be chosen, or they are too loaded, so all zones are used.
    AllZones,
}

/// Follows a choice. The compiler removes it where nothing is followed.
pub(crate) trait Follow {
    /// Whether the choice uses up no turn.
    const DRY: bool;

    /// From now on one of these positions is chosen.
    fn narrowed(&mut self, by: Narrowing, positions: impl Iterator<Item = usize>);
}

/// Follows nothing.
pub(crate) struct Unfollowed;

impl Follow for Unfollowed {
    const DRY: bool = false;

    fn narrowed(&mut self, _: Narrowing, _: impl Iterator<Item = usize>) {}
}

/// How a choice was narrowed, in order: by what, and the positions that were left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Narrowings(pub Vec<(Narrowing, Vec<usize>)>);

impl Follow for Narrowings {
    const DRY: bool = true;

    fn narrowed(&mut self, by: Narrowing, positions: impl Iterator<Item = usize>) {
        self.0.push((by, positions.collect()));
    }
}
