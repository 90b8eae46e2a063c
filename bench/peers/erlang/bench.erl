%% Erlang/OTP: a process a script and a world, under supervisors; the workloads of common/src/lib.rs.
%% Positions are in an ETS table: a "host call" is a read or a write of it. Times are the clock's, on one scheduler.
%% erlc bench.erl; erl +S 1:1 +P 2000000 -noshell -s bench main W1 1000
-module(bench).
-behaviour(supervisor).
-export([main/1, init/1, script_start/3, script_init/3, world_start/2, world_init/3, rpc_loop/0, client/3]).

-define(DT, 0.0625).

emit(Peer, W, N, M, V) ->
    io:format("{\"who\":\"~s\",\"w\":\"~s\",\"n\":~b,\"metric\":\"~s\",\"value\":~.6f}~n", [Peer, W, N, M, float(V)]).
us() -> erlang:monotonic_time(nanosecond) / 1000.
pct(L, P) -> S = lists:sort(L), lists:nth(1 + round((length(S) - 1) * P / 100), S).
median(L) -> pct(L, 50).

%% ------------------------------------------------------------ script process
%% positions live in a public ETS table of the world: a "host call" is an ETS read or write
script_start(W, Tab, Id) -> {ok, proc_lib:spawn_link(?MODULE, script_init, [W, Tab, Id])}.
script_init(none, Tab, Id) -> script_run(Tab, Id, 0, arrays());
script_init(W, Tab, Id) -> W ! {up, self()}, script_run(Tab, Id, 0, arrays()).
%% external function: the call to vel() below is fully qualified, so a code change is seen on the next tick
script_run(Tab, Id, Mode, A) ->
    receive
        {tick, From, Dt} ->
            case Mode of
                0 -> {X, Y} = ets:lookup_element(Tab, Id, 2),
                     {VX, VY} = script:vel(),
                     ets:update_element(Tab, Id, {2, {X + VX * Dt, Y + VY * Dt}}),
                     From ! done;
                1 -> spin(0);
                2 -> exit(crash)
            end,
            script_run(Tab, Id, Mode, A);
        {heavy, From, X, Y} -> From ! {heavy, heavy(A, X, Y)}, script_run(Tab, Id, Mode, A);
        {mode, From, M} -> From ! ok, script_run(Tab, Id, M, A)
    end.
spin(I) -> spin((I * 1664525 + 1013904223) band 16#ffffffff).

arrays() ->
    L = lists:seq(0, 63),
    {list_to_tuple([float((J * 7) rem 50) || J <- L]), list_to_tuple([float((J * 13) rem 50) || J <- L]),
     list_to_tuple([J * 0.01 || J <- L]), list_to_tuple([(64 - J) * 0.01 || J <- L])}.
heavy({PX, PY, VX, VY}, X, Y) -> h(0, PX, PY, VX, VY, X, Y, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0).
h(400, _, _, _, _, _, _, SX, SY, AX, AY, CX, CY, N) ->
    SX + SY * 2.0 + (AX + AY * 2.0) * 0.1 + (CX + CY * 2.0) * 0.01 + N;
h(I, PX, PY, VX, VY, X, Y, SX, SY, AX, AY, CX, CY, N) ->
    J = (I band 63) + 1,
    DX = element(J, PX) - X,
    DY = element(J, PY) - Y,
    D2 = DX * DX + DY * DY,
    if D2 < 2500.0 ->
            W = 1.0 / (D2 + 1.0),
            h(I + 1, PX, PY, VX, VY, X, Y, SX - DX * W, SY - DY * W, AX + element(J, VX), AY + element(J, VY),
              CX + element(J, PX), CY + element(J, PY), N + 1.0);
       true -> h(I + 1, PX, PY, VX, VY, X, Y, SX, SY, AX, AY, CX, CY, N)
    end.

%% ------------------------------------------------------------ supervisors
%% world supervisor (simple_one_for_one) -> script processes, all permanent
init({scripts, W, Tab}) ->
    {ok, {#{strategy => simple_one_for_one, intensity => 1000000, period => 1},
          [#{id => s, start => {?MODULE, script_start, [W, Tab]}, restart => permanent, shutdown => brutal_kill}]}};
init(worlds) ->
    {ok, {#{strategy => simple_one_for_one, intensity => 1000000, period => 1},
          [#{id => w, start => {?MODULE, world_start, []}, restart => permanent, type => supervisor}]}}.
new_tab(N) ->
    T = ets:new(pos, [public, set, {write_concurrency, true}, {read_concurrency, false}]),
    ets:insert(T, [{I, {float(I), 0.0}} || I <- lists:seq(0, N - 1)]),
    T.
world(N) -> world(N, none).
world(N, Notify) ->
    T = new_tab(N),
    {ok, Sup} = supervisor:start_link(?MODULE, {scripts, Notify, T}),
    Ps = [begin {ok, P} = supervisor:start_child(Sup, [I]), P end || I <- lists:seq(0, N - 1)],
    {T, Sup, Ps}.
%% a world as a process of its own (under the worlds supervisor): owns its ETS table and its script supervisor
world_start(N, Report) ->
    {ok, proc_lib:spawn_link(?MODULE, world_init, [N, Report, self()])}.
world_init(N, Report, _) ->
    {_T, _S, Ps} = world(N),
    tick(Ps),
    Report ! {world_up, self(), length(Ps)},
    world_loop(Ps).
world_loop(Ps) ->
    receive
        {tick, From} -> tick(Ps), From ! ticked, world_loop(Ps)
    end.
tick(Ps) ->
    S = self(),
    [P ! {tick, S, ?DT} || P <- Ps],
    wait(length(Ps)).
wait(0) -> ok;
wait(N) -> receive done -> wait(N - 1) end.
sum(T) -> ets:foldl(fun({_, {X, Y}}, A) -> A + X + Y end, 0.0, T).
expect(N, T) -> N * (N - 1) / 2 + N * T * 1.5 * ?DT.
close({T, Sup, _}) ->
    unlink(Sup), exit(Sup, kill),
    R = monitor(process, Sup), receive {'DOWN', R, _, _, _} -> ok end,
    ets:delete(T).
timed(F) -> T = us(), F(), us() - T.
rss() ->
    {ok, B} = file:read_file("/proc/self/smaps_rollup"),
    {match, [V]} = re:run(B, "Rss:\\s+(\\d+)", [{capture, [1], list}]),
    list_to_integer(V).

%% source of the hot-loaded module, both versions
script_src(V) ->
    Vel = case V of 1 -> "{1.0, 0.5}"; 2 -> "{2.0, 1.0}" end,
    {ok, T, _} = erl_scan:string("-module(script). -export([vel/0]). vel() -> " ++ Vel ++ "."),
    {Fs, _} = lists:foldl(fun({dot, _} = D, {Acc, Cur}) -> {Acc ++ [element(2, erl_parse:parse_form(lists:reverse([D | Cur])))], []};
                             (X, {Acc, Cur}) -> {Acc, [X | Cur]} end, {[], []}, T),
    Fs.
compile_v(V) -> {ok, script, Bin} = compile:forms(script_src(V), []), Bin.
load(Bin) -> code:purge(script), {module, script} = code:load_binary(script, "script.erl", Bin), ok.

main([WA, NA]) ->
    W = atom_to_list(WA), N = list_to_integer(atom_to_list(NA)),
    load(compile_v(1)),
    run("erlang", W, N),
    halt().

repeat(F, MinN, Ms) -> T0 = us(), repeat(F, MinN, Ms, T0, []).
repeat(F, MinN, Ms, T0, Acc) ->
    case length(Acc) >= MinN andalso (us() - T0 > Ms * 1000 orelse length(Acc) > 20000) of
        true -> Acc;
        false -> repeat(F, MinN, Ms, T0, [timed(F) | Acc])
    end.

run(P, "W1", N) ->
    {T, _, Ps} = world(N),
    A = repeat(fun() -> tick(Ps) end, 20, 150),
    L = repeat(fun() -> tick(Ps) end, 30, 700),
    Got = sum(T), Want = expect(N, length(A) + length(L)),
    true = abs(Got - Want) / Want < 1.0e-6,
    M = median(L),
    emit(P, "W1", N, "tick_ns", M * 1000 / N);
run(P, "W2", N) ->
    {_, _, Ps} = world(N),
    S = self(),
    F = fun() -> [Q ! {heavy, S, 3.0, 4.0} || Q <- Ps], waith(N, 0.0) end,
    Chk = F(),
    M = median(repeat(F, 5, 700)),
    true = abs(Chk - 598.922346) < 1.0e-5,
    emit(P, "W2", N, "math_us", M / N);
run(P, "W3", N) ->
    close(world(1)),
    R0 = rss(), T0 = us(), {_, _, Ps} = world(N), D = us() - T0,
    tick(Ps),
    emit(P, "W3", N, "start_us", D / N),
    emit(P, "W3", N, "memory_kib", (rss() - R0) / N);
run(P, "W3w", N) ->
    {ok, WS} = supervisor:start_link(?MODULE, worlds),
    R0 = rss(), T0 = us(), Me = self(),
    [{ok, _} = supervisor:start_child(WS, [10, Me]) || _ <- lists:seq(1, N)],
    [receive {world_up, _, 10} -> ok end || _ <- lists:seq(1, N)],
    D = us() - T0, R1 = rss(),
    emit(P, "W3w", N, "world_start_us", D / N), emit(P, "W3w", N, "world_kib", (R1 - R0) / N);
run(P, "W4", N) ->
    logger:set_primary_config(level, none),
    %% the world gives the tick 8 ms; whoever has not answered by then is killed and restarted by the supervisor
    {_, Sup, Ps} = world(N),
    Nm = median(repeat(fun() -> tick(Ps) end, 50, 200)),
    R = [begin
             {_, _, _} = {Sup, K, ok},
             Kids = [C || {_, C, _, _} <- supervisor:which_children(Sup)],
             V = lists:nth(N div 2, Kids),
             V ! {mode, self(), 1}, receive ok -> ok end,
             S = self(), T = us(),
             [Q ! {tick, S, ?DT} || Q <- Kids],
             Others = wait_until(N - 1, us() + 8000),
             TO = us() - T,
             Rest = max(0, 8000 - round(us() - T)),
             {Wd, Sleep} = {V, Rest},
             receive after Sleep div 1000 -> ok end,
             Mr = monitor(process, Wd), exit(Wd, kill),
             receive {'DOWN', Mr, _, _, _} -> ok end,
             TT = us() - T,
             wait_restart(Sup, N),
             wait(Others), %% late ones, if any
             {TO, TT, Others}
         end || K <- lists:seq(1, 20)],
    {_, Ts, _} = lists:unzip3(R),
    emit(P, "W4", N, "normal_us", Nm),
    emit(P, "W4", N, "tick_us", median(Ts));
run(P, "W5", N) ->
    {T, _, Ps} = world(N),
    R = [begin
             load(compile_v(1)),
             [tick(Ps) || _ <- lists:seq(1, 50)],
             T0 = us(), B = compile_v(2), C = us() - T0,
             S0 = sum(T),
             T1 = us(), load(B), D = us() - T1, tick(Ps), Pz = us() - T1,
             true = abs(sum(T) - S0 - N * 3.0 * ?DT) < 0.01 * N,
             {C, D, Pz}
         end || _ <- lists:seq(1, 5)],
    {_, Ds, Pzs} = lists:unzip3(R),
    emit(P, "W5", N, "swap_us", median(Ds)), emit(P, "W5", N, "longest_us", median(Pzs)),
    emit(P, "W5", N, "normal_us", median(repeat(fun() -> tick(Ps) end, 50, 100)));
run(P, "W6", N) ->
    process_flag(trap_exit, true),
    logger:set_primary_config(level, none),
    {_, Sup, Ps} = world(N, self()),
    wait_up(N),
    _ = median(repeat(fun() -> tick(Ps) end, 20, 100)),
    R = [begin
             Kids = [C || {_, C, _, _} <- supervisor:which_children(Sup)],
             V = lists:sublist(Kids, 100),
             T = us(),
             [exit(Q, kill) || Q <- V],
             wait_up(100),
             us() - T
         end || _ <- lists:seq(1, 10)],
    emit(P, "W6", N, "restart_us", median(R)),
    {ok, WS} = supervisor:start_link(?MODULE, worlds),
    Me = self(),
    {ok, _} = supervisor:start_child(WS, [10, Me]),
    receive {world_up, W0, 10} -> ok end,
    {_, R2} = lists:foldl(fun(_, {Wp, Acc}) ->
             T = us(), exit(Wp, kill),
             receive {world_up, W2, 10} -> {W2, [us() - T | Acc]} end
         end, {W0, []}, lists:seq(1, 20)),
    emit(P, "W6", N, "world_us", median(R2));
run(P, "W7", N) ->
    S = spawn(?MODULE, rpc_loop, []),
    L = [timed(fun() -> rpc(S, I) end) || I <- lists:seq(1, 50000)],
    emit(P, "W7", 1, "p50_us", median(L)), emit(P, "W7", 1, "p99_us", pct(L, 99)),
    emit(P, "W7", 1, "calls_per_s", 1.0e6 * 50000 / lists:sum(L)),
    pipelined(P, S, N).
pipelined(P, S, _) ->
    C = 64, K = 3000,
    T = us(),
    Me = self(),
    [spawn(?MODULE, client, [S, K, Me]) || _ <- lists:seq(1, C)],
    [receive finished -> ok end || _ <- lists:seq(1, C)],
    emit(P, "W7", C, "calls_per_s", 1.0e6 * C * K / (us() - T)).
client(_, 0, Me) -> Me ! finished;
client(S, K, Me) -> rpc(S, K), client(S, K - 1, Me).
rpc(S, I) -> R = make_ref(), S ! {R, self(), I}, receive {R, V} -> V end.
rpc_loop() -> receive {R, From, V} -> From ! {R, V + 1}, rpc_loop() end.

waith(0, C) -> C;
waith(N, _) -> receive {heavy, C} -> waith(N - 1, C) end.
wait_until(0, _) -> 0;
wait_until(N, D) ->
    Left = max(0, round((D - us()) / 1000)),
    receive done -> wait_until(N - 1, D) after Left -> N end.
wait_up(0) -> ok;
wait_up(N) -> receive {up, _} -> wait_up(N - 1) end.
wait_restart(Sup, N) ->
    case proplists:get_value(active, supervisor:count_children(Sup)) of
        N -> ok;
        _ -> erlang:yield(), wait_restart(Sup, N)
    end.
