<?php
// Every URL that is no file: /one-click/TOKEN/PAGE and /view?client=TOKEN.

require __DIR__ . '/clients.php';

[$path] = explode('?', $_SERVER['REQUEST_URI']);
if ($path === '/view' && isset($clients[$_REQUEST['client'] ?? ''])) { // older still
    enter($_REQUEST['client']);
    page('Overview', "<p id=\"client\">" . htmlspecialchars($_SESSION['client']) . "</p>\n");
    exit;
}
if (!preg_match('~^/one-click/([^/]+)/(.*)$~', $path, $m) || !isset($clients[rawurldecode($m[1])])) {
    http_response_code(404);
    page('No such page', "<p>Please use the link that we sent you.</p>\n");
    exit;
}
[, $token, $page] = $m;
enter(rawurldecode($token));
$home = "/one-click/$token";

switch ("$_SERVER[REQUEST_METHOD] $page") {
    case 'GET ':
    case 'HEAD ':
        header('Location: /dashboard.php');
        exit;

    case 'POST note':
        $_SESSION['notes'][] = $_POST['note'];
        header("Location: http://$_SERVER[HTTP_HOST]$home/orders/7?saved=1");
        exit;

    case 'POST upload':
        $file = $_FILES['file'];
        page('Thank you', '<p id="file">' . htmlspecialchars($file['name']) . " $file[size] " . md5_file($file['tmp_name']) . "</p>\n");
        exit;

    case 'GET notes.json':
        header('Content-Type: application/json');
        echo json_encode(['client' => $_SESSION['client'], 'notes' => $_SESSION['notes'], 'at' => $_SERVER['REQUEST_URI']], JSON_UNESCAPED_SLASHES);
        exit;

    case 'GET statement.csv':
        header('Content-Type: text/csv; charset=utf-8');
        header('Content-Disposition: attachment; filename="statement.csv"');
        echo "client,total\n\"$_SESSION[client]\",100\n";
        exit;

    case 'GET latest':
        header('Location: orders/7'); // relative
        exit;

    case 'GET remember':
        setcookie('seen', 'yes', ['path' => "$home/"]);
        header("Refresh: 0; url=$home/orders/7");
        header("Content-Location: $home/remembered");
        page('One moment', '');
        exit;

    case 'GET events':
        header('Content-Type: text/event-stream');
        header('X-Accel-Buffering: no');
        session_write_close();
        echo "data: $_SESSION[client]\n\n";
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        flush();
        for ($i = 0; $i < 300 && !connection_aborted(); $i++) {
            usleep(100_000);
            echo ":\n\n";
            flush();
        }
        exit;
}

if (!preg_match('~^orders/(\d+)$~', $page, $m)) {
    http_response_code(404);
    page('No such page', "<p>Please use the link that we sent you.</p>\n");
    exit;
}
$client = htmlspecialchars($_SESSION['client']);
$notes = implode('', array_map(fn ($note) => '<li>' . htmlspecialchars($note) . "</li>\n", $_SESSION['notes']));
$next = $m[1] + 1;
page("Order $m[1]", <<<HTML
<p id="client">$client</p>
<ul id="notes">
$notes</ul>
<form method="post" action="$home/note"><label>A note <input name="note"></label> <button>Send</button></form>
<form method="post" action="$home/upload" enctype="multipart/form-data"><input type="file" name="file"> <button>Upload</button></form>
<p><a id="next" href="$home/orders/$next">The next order</a> <a id="statement" href="$home/statement.csv">Your statement</a> <a id="dashboard" href="/dashboard.php">Your dashboard</a></p>
<p id="fetched"></p>
<script>fetch("$home/notes.json").then(r => r.json()).then(got => { document.getElementById("fetched").textContent = got.client + ": " + got.notes.length })</script>

HTML);
