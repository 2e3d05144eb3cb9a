//! What a store must do with rates and with budgets that are raised.

use super::{Stores, commit, expect_kind, posting, register, reserve, second, spender, standing_of};
use outlive_core::port::{
    Access, BudgetFilter, BudgetRaise, BudgetStanding, DbErrorKind, RateLimit, RateShare, RateStore, ShareRequest,
    ShareReturn, Sharing,
};
use outlive_core::{Budget, BudgetScope, Timestamp};
use std::sync::Arc;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn ask(holder: &str, tokens: u64, at: Timestamp) -> ShareRequest {
    let limit = RateLimit { key: Arc::from("key"), requests: None, tokens: Some(1000), window: MINUTE };
    ShareRequest { limit: Arc::new(limit), holder: Arc::from(holder), tokens, returned: Vec::new(), at }
}

async fn share(db: &(impl RateStore + ?Sized), request: ShareRequest) -> RateShare {
    match db.take_share(request).await.expect("shares are given out") {
        Sharing::Share(share) => share,
        Sharing::Wait(wait) => panic!("there is room, and it says to wait {wait:?}"),
    }
}

async fn waits(db: &(impl RateStore + ?Sized), request: ShareRequest) -> Duration {
    match db.take_share(request).await.expect("shares are given out") {
        Sharing::Wait(wait) => wait,
        Sharing::Share(share) => panic!("there is no room, and it gives {share:?}"),
    }
}

pub(super) async fn what_processes_have_of_a_rate_is_never_more_than_there_is(Stores { one: db, other, .. }: Stores) {
    let first = share(&*db, ask("p1", 700, second(0))).await;
    assert!(first.tokens >= 700 && first.requests >= 1 && first.good_until > second(0), "{first:?}");
    let rest = 1000 - first.tokens;
    waits(&*other, ask("p2", rest + 1, second(0))).await;
    // Of another key, and of another process at the same time.
    let mut elsewhere = ask("p2", 1000, second(0));
    Arc::make_mut(&mut elsewhere.limit).key = Arc::from("another");
    share(&*other, elsewhere).await;
    // It counts until no window can hold a call of it.
    assert!(first.counts_until >= first.good_until + MINUTE);
    waits(&*other, ask("p2", 1000, first.good_until + MINUTE)).await;
    let all = share(&*other, ask("p2", 1000, first.counts_until)).await;
    assert_eq!(all.tokens, 1000);
    // More than there ever is goes alone.
    waits(&*db, ask("p1", 5000, first.counts_until + MINUTE)).await;
    share(&*db, ask("p1", 5000, all.counts_until)).await;
    waits(&*db, ask("p1", 1, all.counts_until + MINUTE)).await;
}

pub(super) async fn what_is_given_back_of_a_share_is_there_for_others(Stores { one: db, other, .. }: Stores) {
    let had = share(&*db, ask("p1", 1000, second(0))).await;
    waits(&*other, ask("p2", 600, second(1))).await;
    let back = |tokens| vec![ShareReturn { counts_until: had.counts_until, requests: 0, tokens }];
    db.return_shares(Arc::from("key"), Arc::from("p1"), back(500)).await.expect("shares come back");
    // Only of its own.
    db.return_shares(Arc::from("key"), Arc::from("p3"), back(500)).await.expect("that is nothing");
    waits(&*other, ask("p2", 600, second(2))).await;
    db.return_shares(Arc::from("key"), Arc::from("p1"), back(100)).await.expect("shares come back");
    share(&*other, ask("p2", 600, second(2))).await;
    // With a request, and more than there was.
    let more = ShareRequest { returned: back(-200), ..ask("p1", 1, second(3)) };
    waits(&*db, more).await;
    let less = ShareRequest { returned: back(9000), ..ask("p1", 400, second(3)) };
    share(&*db, less).await;
}

pub(super) async fn who_waits_for_a_share_is_not_passed(Stores { one: db, other, .. }: Stores) {
    let had = share(&*db, ask("p1", 900, second(0))).await;
    waits(&*other, ask("p2", 400, second(1))).await;
    // There would be room for it.
    waits(&*db, ask("p3", 50, second(1))).await;
    let back = vec![ShareReturn { counts_until: had.counts_until, requests: 0, tokens: 350 }];
    db.return_shares(Arc::from("key"), Arc::from("p1"), back).await.expect("shares come back");
    waits(&*db, ask("p3", 51, second(2))).await;
    share(&*other, ask("p2", 400, second(2))).await;
    share(&*db, ask("p3", 50, second(2))).await;
    // Who does not ask again waits no more.
    waits(&*other, ask("p2", 999, second(3))).await;
    waits(&*db, ask("p3", 1, second(3))).await;
    let later = had.counts_until;
    assert!(share(&*db, ask("p3", 500, later)).await.tokens >= 500);
}

pub(super) async fn a_clock_that_was_wrong_holds_no_share_for_ever(Stores { one: db, .. }: Stores) {
    share(&*db, ask("p1", 1000, second(9_000_000))).await;
    share(&*db, ask("p2", 1000, second(0))).await;
    waits(&*db, ask("p2", 1000, second(1))).await;
}

pub(super) async fn twins_never_have_more_of_a_rate_together(Stores { one: db, other, .. }: Stores) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let db = if number % 2 == 0 { db.clone() } else { other.clone() };
        tasks.spawn(async move {
            let holder = format!("p{}", number % 4);
            match db.take_share(ask(&holder, 90, second(0))).await.expect("shares are given out") {
                Sharing::Share(share) => share.tokens,
                Sharing::Wait(_) => 0,
            }
        });
    }
    let given: u64 = tasks.join_all().await.into_iter().sum();
    assert!((500..=1000).contains(&given), "{given}");
}

pub(super) async fn an_account_is_raised_once_for_who_has_seen_it(Stores { one: db, other, .. }: Stores) {
    register(&*db, "w1").await;
    let (lease, info) = spender(&*db, "r1", "s1", "ada").await;
    let budget = Budget::calls(2).per_user();
    let id = budget.account(&info, second(5)).id;
    let raise = |amount, seen| BudgetRaise { id: id.clone(), amount, seen };
    let raised = db.raise_budget(Access::All, raise(1, None), second(5)).await.expect("a store answers");
    assert_eq!(raised, None, "nothing was counted yet");
    commit(&*db, posting(&lease, &info, &budget, &[reserve(2)], second(5))).await;
    let bob = other.raise_budget(Access::User(Arc::from("bob")), raise(1, None), second(6)).await;
    assert_eq!(bob.expect("a store answers"), None, "it is somebody else's");
    let ada = other.raise_budget(Access::User(Arc::from("ada")), raise(1, Some(0)), second(6)).await;
    let ada = ada.expect("a store answers").expect("it is there");
    assert_eq!((ada.standing.raised, ada.standing.reserved, ada.updated_at), (1, 2, second(6)));
    expect_kind(db.raise_budget(Access::All, raise(1, Some(0)), second(7)).await, DbErrorKind::Conflict);
    db.raise_budget(Access::All, raise(2, Some(1)), second(7)).await.expect("nobody else has raised it");
    let standing = standing_of(&*db, &budget, &info, second(8)).await;
    assert_eq!(standing, Some(BudgetStanding { raised: 3, reserved: 2, settled: 0 }));
    commit(&*db, posting(&lease, &info, &budget, &[reserve(3)], second(8))).await;
    expect_kind(db.commit(posting(&lease, &info, &budget, &[reserve(1)], second(9))).await, DbErrorKind::OverBudget);
}

pub(super) async fn budgets_are_found_by_workflow_scope_and_id(Stores { one: db, .. }: Stores) {
    register(&*db, "w1").await;
    let budgets = [
        Budget::calls(9).per_run(),
        Budget::calls(9).per_user(),
        Budget::calls(9).per_user().shared("house"),
        Budget::calls(9).per_day(),
    ];
    for (id, session, user) in [("r1", "s1", "ada"), ("r2", "s2", "bob")] {
        let (lease, info) = spender(&*db, id, session, user).await;
        for budget in &budgets {
            commit(&*db, posting(&lease, &info, budget, &[reserve(1)], second(5))).await;
        }
    }
    let found = async |access: Access, filter: BudgetFilter| {
        let page = db.budgets(access, filter).await.expect("budgets are read");
        let subject = |account: &outlive_core::port::BudgetAccount| format!("{}:{}", account.owner, account.subject);
        page.budgets.iter().map(|stored| subject(&stored.account)).collect::<Vec<_>>()
    };
    let all = BudgetFilter::default();
    let owner = |owner: &str| BudgetFilter { owner: Some(Arc::from(owner)), ..all.clone() };
    let per = |per| BudgetFilter { per: Some(per), ..all.clone() };
    assert_eq!(found(Access::All, all.clone()).await.len(), 7);
    assert_eq!(found(Access::All, owner("shared:house")).await, ["shared:house:ada", "shared:house:bob"]);
    assert_eq!(found(Access::All, owner("flow")).await.len(), 5);
    assert_eq!(found(Access::All, per(BudgetScope::Run)).await, ["flow:r1", "flow:r2"]);
    assert_eq!(found(Access::All, per(BudgetScope::All)).await, ["flow:"]);
    let users = BudgetFilter { owner: Some(Arc::from("flow")), ..per(BudgetScope::User) };
    assert_eq!(found(Access::All, users.clone()).await, ["flow:ada", "flow:bob"]);
    let ada = || Access::User(Arc::from("ada"));
    assert_eq!(found(ada(), users).await, ["flow:ada"]);
    assert_eq!(found(ada(), per(BudgetScope::All)).await, Vec::<String>::new());
    let page = db.budgets(Access::All, per(BudgetScope::User)).await.expect("budgets are read");
    let id = page.budgets[0].account.id.clone();
    let one = BudgetFilter { id: Some(id.clone()), ..all.clone() };
    let found = db.budgets(ada(), one.clone()).await.expect("budgets are read").budgets;
    assert_eq!(found.first().map(|stored| &stored.account.id), Some(&id));
    let bob = db.budgets(Access::User(Arc::from("bob")), one).await.expect("budgets are read");
    assert!(bob.budgets.is_empty() && bob.next.is_none());
}
